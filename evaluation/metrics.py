"""Task metrics of a bundle on a user's examples, with what chance alone would change.

Every metric keeps a few sums for each example, from which the metric of any set of examples
follows. Intervals are of 95 % and come from drawing the examples afresh, with replacement, 1000
times (Efron's bootstrap); the difference between two models draws the same examples for both
(Koehn, "Statistical Significance Tests for Machine Translation Evaluation", 2004).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import BackendError, InputError, OptionError
from seq2edge.evaluation.examples import Example
from seq2edge.runtime.decoding import log_sum_exp
from seq2edge.runtime.model import Model

BATCH = 8
DRAWS = 1000
LONGEST = 384  # tokens of a text that perplexity reads
AGREEMENT = "agreement"  # the one metric that compares two models: see quantize/race.py

Sums: TypeAlias = NDArray[np.float64]  # (sums of a metric,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric, the manifest tasks it is for, and whether more of it is better.

    `measure` gives (examples, sums); `of` makes the metric of the examples' added sums.
    """

    name: str
    tasks: tuple[str, ...]
    rises: bool
    references: bool
    measure: Callable[[Model, Sequence[Example], str | None], Iterable[Sequence[float]]]
    of: Callable[[Sums], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and the interval that holds it in 95 of 100 draws of the examples."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """One model's sums (examples, sums) of one metric."""

    metric: Metric
    sums: NDArray[np.float64]

    def estimate(self) -> Estimate:
        """The metric on all examples."""
        drawn = [self.metric.of(total) for total in self._draws()]
        return _estimate(self.metric.of(self.sums.sum(axis=0)), drawn)

    def change_from(self, other: Scores) -> Estimate:
        """This model's metric minus the other's on the same examples."""
        of = self.metric.of
        pairs = zip(self._draws(), other._draws(), strict=True)
        value = of(self.sums.sum(axis=0)) - of(other.sums.sum(axis=0))
        return _estimate(value, [of(mine) - of(theirs) for mine, theirs in pairs])

    def _draws(self) -> Iterator[Sums]:
        rng = np.random.default_rng(0)  # the same examples for every model
        count = len(self.sums)
        for _ in range(DRAWS):
            yield self.sums[rng.integers(0, count, count)].sum(axis=0)


def _estimate(value: float, drawn: Sequence[float]) -> Estimate:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value=value, low=float(low), high=float(high))


def choose_metric(model: Model, examples: Sequence[Example], name: str | None) -> Metric | None:
    """The metric of that name, or the usual one of the task; None where there is none.

    Raises OptionError for an unknown name or one of another task, InputError where references are
    needed and missing.
    """
    task, kind = model.bundle.manifest.task, model.dims.kind
    has_references = all(example.reference is not None for example in examples)
    if name is None:
        usual = {"transcribe": "wer", "classify": "accuracy", "embed": None}.get(task, "chrf")
        usual = "perplexity" if task == "generate" and kind == "decoder" else usual
        metric = METRICS[usual] if usual else None
        return metric if metric and (has_references or not metric.references) else None
    metric = find_metric(name)
    if task not in metric.tasks or (name == "perplexity" and kind != "decoder"):
        raise OptionError(f"metric: {name} is not for models made to {task} ({kind})")
    if metric.references and not has_references:
        raise InputError(f"metric: {name} compares with references, the examples have none")
    return metric


def find_metric(name: str) -> Metric:
    """The metric of that name. Raises OptionError naming the known ones."""
    if name not in METRICS:
        raise OptionError(f"metric: {name!r} is unknown, known: {', '.join(METRICS)}")
    return METRICS[name]


def score(
    metric: Metric, model: Model, examples: Sequence[Example], *, language: str | None = None
) -> Scores:
    """Run the model on all examples. `language` is a multilingual speech model's."""
    sums = np.array(list(metric.measure(model, examples, language)), dtype=np.float64)
    return Scores(metric=metric, sums=sums)


def _batches(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    for start in range(0, len(examples), BATCH):
        yield examples[start : start + BATCH]


def _pairs(
    model: Model, examples: Sequence[Example], language: str | None
) -> Iterator[tuple[str, str]]:
    """What the model answers to each example, and the reference."""
    for batch in _batches(examples):
        if model.dims.mels:
            answers = model.transcribe([str(e.input) for e in batch], language=language)
        else:
            answers = model.generate([str(e.input) for e in batch])
        for example, found in zip(batch, answers, strict=True):
            yield found[0].text, str(example.reference)


def _translation(name: str) -> Any:
    module = _library("sacrebleu.metrics")
    return {"bleu": module.BLEU, "chrf": module.CHRF}[name]()


def _measure_translation(name: str) -> Callable[..., Iterator[Sequence[float]]]:
    def measure(
        model: Model, examples: Sequence[Example], language: str | None
    ) -> Iterator[Sequence[float]]:
        scorer = _translation(name)
        for answer, reference in _pairs(model, examples, language):
            yield scorer._extract_corpus_statistics([answer], [[reference]])[0]  # noqa: SLF001

    return measure


def _of_translation(name: str) -> Callable[[Sums], float]:
    def of(total: Sums) -> float:
        counts = [int(x) for x in total]
        return float(_translation(name)._compute_score_from_stats(counts).score)  # noqa: SLF001

    return of


def _measure_errors(unit: str) -> Callable[..., Iterator[Sequence[float]]]:
    """Edits and reference length, of words or characters, without case and punctuation."""

    def measure(
        model: Model, examples: Sequence[Example], language: str | None
    ) -> Iterator[Sequence[float]]:
        jiwer = _library("jiwer")
        steps = [jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.RemoveMultipleSpaces()]
        clean = jiwer.Compose([*steps, jiwer.Strip()])
        process = jiwer.process_words if unit == "words" else jiwer.process_characters
        for answer, reference in _pairs(model, examples, language):
            wanted = clean(reference)
            if not wanted:
                raise InputError(f"metric: the reference {reference!r} holds no words")
            found = process(wanted, clean(answer))
            edits = found.substitutions + found.deletions + found.insertions
            yield edits, found.hits + found.substitutions + found.deletions

    return measure


def _measure_accuracy(
    model: Model, examples: Sequence[Example], _: str | None
) -> Iterator[Sequence[float]]:
    known = model.bundle.manifest.labels
    for batch in _batches(examples):
        for example, found in zip(
            batch, model.classify([str(e.input) for e in batch]), strict=True
        ):
            if example.reference not in known:
                raise InputError(
                    f"metric: the label {example.reference!r} is unknown, known: {', '.join(known)}"
                )
            yield float(found.label == example.reference), 1.0


def _measure_surprise(
    model: Model, examples: Sequence[Example], _: str | None
) -> Iterator[Sequence[float]]:
    """Minus the log-probability of each text's tokens after its first, and their number."""
    for batch in _batches(examples):
        texts = [model.tokenizer.encode(str(e.input))[:LONGEST] for e in batch]
        if min(map(len, texts)) < 2:
            raise InputError("metric: perplexity needs texts of two tokens or more")
        longest = max(map(len, texts))
        tokens = np.zeros((len(texts), longest), dtype=np.int64)
        for row, ids in enumerate(texts):
            tokens[row, : len(ids)] = ids
        lengths = np.array([len(ids) for ids in texts])
        cache = model.backend.start(None, len(texts), longest)
        surprise = np.zeros(len(texts))
        one = np.ones(len(texts), dtype=np.int64)
        for i in range(longest - 1):
            logits = model.backend.step(tokens[:, i : i + 1], one, cache)
            likely = np.take_along_axis(logits, tokens[:, i + 1 : i + 2], axis=1)[:, 0]
            surprise += np.where(i + 1 < lengths, log_sum_exp(logits) - likely, 0.0)
        yield from np.stack([surprise, lengths - 1.0], axis=1).tolist()


def _percent(total: Sums) -> float:
    return float(100 * total[0] / total[1])


def _perplexity(total: Sums) -> float:
    return float(np.exp(total[0] / total[1]))


def _library(name: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BackendError(f"metric: {error}; install seq2edge[quantize]") from error


METRICS = {
    metric.name: metric
    for metric in (
        *(
            Metric(
                name=name,
                tasks=("generate",),
                rises=True,
                references=True,
                measure=_measure_translation(name),
                of=_of_translation(name),
            )
            for name in ("chrf", "bleu")
        ),
        *(
            Metric(
                name=name,
                tasks=("transcribe", "generate"),
                rises=False,
                references=True,
                measure=_measure_errors(unit),
                of=_percent,
            )
            for name, unit in (("wer", "words"), ("cer", "characters"))
        ),
        Metric(
            name="accuracy",
            tasks=("classify",),
            rises=True,
            references=True,
            measure=_measure_accuracy,
            of=_percent,
        ),
        Metric(
            name="perplexity",
            tasks=("generate",),
            rises=False,
            references=False,
            measure=_measure_surprise,
            of=_perplexity,
        ),
    )
}
