"""Metrics by name, as sums over examples, and what chance alone would change of them.

Every metric keeps a few sums for each example, from which the metric of any set of examples
follows. Intervals are 95 % confidence intervals: the quantiles of 1000 bootstrap samples of the
examples (Efron 1979); the difference between two models takes the same samples for both (Koehn,
"Statistical Significance Tests for Machine Translation Evaluation", 2004).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import InputError, OptionError
from seq2edge.evaluation import speech_times, text_metrics
from seq2edge.evaluation.answers import ModelRequest, labels, negative_log_likelihood, texts
from seq2edge.evaluation.examples import Example
from seq2edge.evaluation.normalization import normalizer
from seq2edge.evaluation.text_metrics import Sums
from seq2edge.runtime.model import Model
from seq2edge.runtime.understanding import Classification

SAMPLES = 1000  # of the bootstrap
LISTED = 20  # labels that an error names
AGREEMENT = "agreement"  # the one metric that compares two models: see quantize/benchmark.py
USUAL: dict[str, tuple[str, ...]] = {  # of each manifest task, the most telling first
    "generate": ("chrf", "bleu"),
    "transcribe": ("wer", "cer"),
    "read": ("cer", "wer"),
    "classify": ("accuracy", "f1"),
}

ERROR_RATES = {  # and what they count
    "wer": "words",
    "cer": "characters",
    "per": "symbols",
    "per-nostress": "stressless",
}
NORMALIZED = ("words", "characters")  # of texts that people write one way or another

Ask: TypeAlias = Callable[[Model, Sequence[Example], ModelRequest], Iterator[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric, and the manifest tasks it is for.

    `ask` has a model answer every example, and metrics with the same `ask` share the answers;
    `measure` gives (examples, sums) of answers; `aggregate` makes the metric of the examples' added
    sums.
    """

    name: str
    tasks: tuple[str, ...]
    higher_is_better: bool
    references: bool
    ask: Ask
    measure: Callable[[Sequence[Any], Sequence[Example]], Iterable[Sequence[float]]]
    aggregate: Callable[[Sums], float]
    times: bool = False  # whether it compares with times, of every example


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and its confidence interval: 95 %, by bootstrap over the examples."""

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
        sampled = [self.metric.aggregate(total) for total in self._samples()]
        return _estimate(self.metric.aggregate(self.sums.sum(axis=0)), sampled)

    def change_from(self, other: Scores) -> Estimate:
        """This model's metric minus the other's on the same examples."""
        aggregate = self.metric.aggregate
        pairs = zip(self._samples(), other._samples(), strict=True)
        value = aggregate(self.sums.sum(axis=0)) - aggregate(other.sums.sum(axis=0))
        return _estimate(value, [aggregate(mine) - aggregate(theirs) for mine, theirs in pairs])

    def _samples(self) -> Iterator[Sums]:
        for rows in bootstrap_samples(len(self.sums)):
            yield self.sums[rows].sum(axis=0)


def bootstrap_samples(count: int) -> Iterator[NDArray[np.int64]]:
    """The examples (count,) of each bootstrap sample: the same ones whenever it is called."""
    rng = np.random.default_rng(0)
    for _ in range(SAMPLES):
        yield rng.integers(0, count, count)


def estimate_mean(values: Sequence[float]) -> Estimate:
    """The mean of some values, and the interval of such means."""
    array = np.asarray(values, dtype=np.float64)
    sampled = [float(array[rows].mean()) for rows in bootstrap_samples(len(array))]
    return _estimate(float(array.mean()), sampled)


def _estimate(value: float, sampled: Sequence[float]) -> Estimate:
    low, high = np.quantile(sampled, [0.025, 0.975])
    return Estimate(value=value, low=float(low), high=float(high))


def usual_metrics(model: Model, examples: Sequence[Example]) -> list[Metric]:
    """The task's metrics, without those whose references are missing."""
    usual = USUAL.get(model.bundle.manifest.task, ())
    if model.dims.kind == "decoder":
        usual = ("perplexity",)
    if len(model.bundle.manifest.labels) == 1:
        usual = ("pearson",)
    has_references = all(example.references for example in examples)
    metrics = [METRICS[name] for name in usual]
    return [metric for metric in metrics if has_references or not metric.references]


def choose_metric(model: Model, examples: Sequence[Example], name: str | None) -> Metric | None:
    """The metric of that name, or the usual one of the task; None where there is none.

    Raises OptionError for an unknown name or one of another task, InputError where references are
    needed and missing.
    """
    if name is None:
        return next(iter(usual_metrics(model, examples)), None)
    metric, task, kind = find_metric(name), model.bundle.manifest.task, model.dims.kind
    if task not in metric.tasks or (name == "perplexity" and kind != "decoder"):
        raise OptionError(f"metric: {name} is not for models made to {task} ({kind})")
    single = len(model.bundle.manifest.labels) == 1
    if task == "classify" and single != (name == "pearson"):
        labels = "one label, take pearson" if single else "several labels, take accuracy or f1"
        raise OptionError(f"metric: {name} is not for models with {labels}")
    for example in examples if metric.times else ():
        if example.times is None:
            raise InputError(
                f"metric: {name} compares with times, {example.input} has none: put a .srt, .json "
                "or .tsv file of its name beside it"
            )
        speech_times.read_times(example.times)  # so that what it is not is said now
    missing = sum(not example.references for example in examples)
    if metric.references and missing:
        which = "the examples have none"
        which = which if missing == len(examples) else f"{missing} of {len(examples)} have none"
        raise InputError(f"metric: {name} compares with references, {which}")
    return metric


def normalized(
    metrics: Sequence[Metric], name: str, *, language: str | None = None
) -> list[Metric]:
    """The metrics with error rates of texts after the rules of that name, which they then bear.

    Raises OptionError for unknown rules, and where no metric is one of those rates.
    """
    clean = normalizer(name, language)
    units = {metric: unit for metric, unit in ERROR_RATES.items() if unit in NORMALIZED}
    if not any(metric.name in units for metric in metrics):
        raise OptionError(f"normalize: only for {' and '.join(units)}, leave it out")
    return [
        dataclasses.replace(
            metric,
            name=f"{metric.name} ({name})",
            measure=text_metrics.measure_errors(units[metric.name], clean),
        )
        if metric.name in units
        else metric
        for metric in metrics
    ]


def find_metric(name: str) -> Metric:
    """The metric of that name. Raises OptionError naming the known ones."""
    if name not in METRICS:
        raise OptionError(f"metric: {name!r} is unknown, known: {', '.join(METRICS)}")
    return METRICS[name]


def score(
    metric: Metric,
    model: Model,
    examples: Sequence[Example],
    request: ModelRequest = ModelRequest(),  # noqa: B008 - frozen
) -> Scores:
    """Run the model on all examples. Raises InputError where there are none."""
    if not examples:
        raise InputError("metric: there are no examples to measure on")
    return score_answers(metric, list(metric.ask(model, examples, request)), examples)


def score_answers(metric: Metric, answers: Sequence[object], examples: Sequence[Example]) -> Scores:
    """Scores of answers that the metric's `ask` gave."""
    sums = np.array(list(metric.measure(answers, examples)), dtype=np.float64)
    return Scores(metric=metric, sums=sums)


def _labels(
    answers: Sequence[Classification], examples: Sequence[Example]
) -> Iterator[tuple[str, str]]:
    """The predicted label and the true one: the predicted if it is right, else the first right."""
    for answer, example in zip(answers, examples, strict=True):
        for label in example.references:
            if label not in answer.scores:
                known = ", ".join([*answer.scores][:LISTED])
                more = ", ..." if len(answer.scores) > LISTED else ""
                raise InputError(f"metric: the label {label!r} is unknown, known: {known}{more}")
        right = answer.label in example.references
        yield answer.label, answer.label if right else example.references[0]


def _measure_accuracy(
    answers: Sequence[Classification], examples: Sequence[Example]
) -> Iterator[Sequence[float]]:
    for predicted, true in _labels(answers, examples):
        yield float(predicted == true), 1.0


def _measure_f1(
    answers: Sequence[Classification], examples: Sequence[Example]
) -> Iterator[Sequence[float]]:
    """Of every label whether it was predicted, true, and both."""
    known = list(answers[0].scores)
    for predicted, true in _labels(answers, examples):
        counts = np.zeros((len(known), 3))
        counts[known.index(predicted), 0] = 1
        counts[known.index(true), 1] = 1
        counts[known.index(predicted), 2] = predicted == true
        yield counts.ravel().tolist()


def _macro_f1(total: Sums) -> float:
    """The mean over the labels that were predicted or true at all."""
    predicted, true, both = total.reshape(-1, 3).T
    present = predicted + true > 0
    return float(100 * np.mean(2 * both[present] / (predicted + true)[present]))


def _measure_pearson(
    answers: Sequence[Classification], examples: Sequence[Example]
) -> Iterator[Sequence[float]]:
    """Of every score and the number it should be the count, sums, squares and product."""
    for answer, example in zip(answers, examples, strict=True):
        score_, reference = answer.scores[answer.label], example.references[0]
        try:
            number = float(reference)
        except ValueError:
            raise InputError(f"metric: the reference {reference!r:.40} is no number") from None
        yield 1.0, score_, number, score_ * score_, number * number, score_ * number


def _pearson(total: Sums) -> float:
    """0 where nothing varies."""
    count, *sums = total
    x, y, xx, yy, xy = (value / count for value in sums)
    spread = (xx - x * x) * (yy - y * y)
    return float(100 * (xy - x * y) / np.sqrt(spread)) if spread > 0 else 0.0


def _as_it_is(
    answers: Sequence[tuple[float, float]], _: Sequence[Example]
) -> Iterable[Sequence[float]]:
    return answers


def _percent(total: Sums) -> float:
    return 100 * _mean(total)


def _mean(total: Sums) -> float:
    return float(total[0] / total[1]) if total[1] else math.nan  # of nothing


def _perplexity(total: Sums) -> float:
    return float(np.exp(total[0] / total[1]))


_of_texts = functools.partial(
    Metric, tasks=("generate", "transcribe", "read"), references=True, ask=texts, aggregate=_percent
)
_of_labels = functools.partial(
    Metric, tasks=("classify",), references=True, ask=labels, higher_is_better=True
)
METRICS = {
    metric.name: metric
    for metric in (
        *(
            _of_texts(
                name=name,
                higher_is_better=True,
                measure=text_metrics.measure_translation(name),
                aggregate=text_metrics.aggregate_translation(name),
            )
            for name in ("chrf", "bleu")
        ),
        *(
            _of_texts(name=name, higher_is_better=False, measure=text_metrics.measure_errors(unit))
            for name, unit in ERROR_RATES.items()
        ),
        *(
            _of_texts(name=name, higher_is_better=True, measure=text_metrics.measure_exact(clean))
            for name, clean in (
                ("exact", text_metrics.plain),
                ("exact-nostress", text_metrics.stressless),
            )
        ),
        *(
            _of_texts(name=name, higher_is_better=True, measure=text_metrics.measure_rouge(name))
            for name in ("rouge1", "rouge2", "rougeL")
        ),
        *(
            Metric(
                name=name,
                tasks=("transcribe",),
                higher_is_better=which == "close",
                references=False,
                times=True,
                ask=speech_times.transcripts,
                measure=speech_times.measure_times(which),
                aggregate=_percent if which == "close" else _mean,
            )
            for name, which in (("start-error", "start"), ("end-error", "end"), ("close", "close"))
        ),
        _of_labels(name="accuracy", measure=_measure_accuracy, aggregate=_percent),
        _of_labels(name="f1", measure=_measure_f1, aggregate=_macro_f1),
        _of_labels(name="pearson", measure=_measure_pearson, aggregate=_pearson),
        Metric(
            name="perplexity",
            tasks=("generate",),
            higher_is_better=False,
            references=False,
            ask=negative_log_likelihood,
            measure=_as_it_is,
            aggregate=_perplexity,
        ),
    )
}
