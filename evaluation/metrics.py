"""The metrics by name, and which of them go with a model."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from seq2edge.errors import InputError, OptionError
from seq2edge.evaluation import text_metrics
from seq2edge.evaluation.answers import ModelRequest, labels, negative_log_likelihood, texts
from seq2edge.evaluation.examples import Example
from seq2edge.evaluation.scores import Metric, Scores, Sums
from seq2edge.runtime.model import Classification, Model

AGREEMENT = "agreement"  # the one metric that compares two models: see quantize/race.py
USUAL: dict[str, tuple[str, ...]] = {  # of each manifest task, the most telling first
    "generate": ("chrf", "bleu"),
    "transcribe": ("wer", "cer"),
    "classify": ("accuracy", "f1"),
}


def usual_metrics(model: Model, examples: Sequence[Example]) -> list[Metric]:
    """The task's metrics, without those whose references are missing."""
    usual = USUAL.get(model.bundle.manifest.task, ())
    if model.dims.kind == "decoder":
        usual = ("perplexity",)
    has_references = all(example.references for example in examples)
    found = [METRICS[name] for name in usual]
    return [metric for metric in found if has_references or not metric.references]


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
    missing = sum(not example.references for example in examples)
    if metric.references and missing:
        which = "the examples have none"
        which = which if missing == len(examples) else f"{missing} of {len(examples)} have none"
        raise InputError(f"metric: {name} compares with references, {which}")
    return metric


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


def _verdicts(
    answers: Sequence[Classification], examples: Sequence[Example]
) -> Iterator[tuple[str, str]]:
    """The label found and the one wanted: of several right ones the one found, else the first."""
    for answer, example in zip(answers, examples, strict=True):
        for label in example.references:
            if label not in answer.scores:
                raise InputError(
                    f"metric: the label {label!r} is unknown, known: {', '.join(answer.scores)}"
                )
        right = answer.label in example.references
        yield answer.label, answer.label if right else example.references[0]


def _measure_accuracy(
    answers: Sequence[Classification], examples: Sequence[Example]
) -> Iterator[Sequence[float]]:
    for found, wanted in _verdicts(answers, examples):
        yield float(found == wanted), 1.0


def _measure_f1(
    answers: Sequence[Classification], examples: Sequence[Example]
) -> Iterator[Sequence[float]]:
    """Of every label whether it was found, wanted, and both."""
    known = list(answers[0].scores)
    for found, wanted in _verdicts(answers, examples):
        counts = np.zeros((len(known), 3))
        counts[known.index(found), 0] = 1
        counts[known.index(wanted), 1] = 1
        counts[known.index(found), 2] = found == wanted
        yield counts.ravel().tolist()


def _macro_f1(total: Sums) -> float:
    """The mean over the labels that were found or wanted at all."""
    found, wanted, both = total.reshape(-1, 3).T
    seen = found + wanted > 0
    return float(100 * np.mean(2 * both[seen] / (found + wanted)[seen]))


def _as_it_is(
    answers: Sequence[tuple[float, float]], _: Sequence[Example]
) -> Iterable[Sequence[float]]:
    return answers


def _percent(total: Sums) -> float:
    return float(100 * total[0] / total[1])


def _perplexity(total: Sums) -> float:
    return float(np.exp(total[0] / total[1]))


_of_texts = functools.partial(
    Metric, tasks=("generate", "transcribe"), references=True, ask=texts, aggregate=_percent
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
            for name, unit in (
                ("wer", "words"),
                ("cer", "characters"),
                ("per", "symbols"),
                ("per-nostress", "stressless"),
            )
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
        _of_labels(name="accuracy", measure=_measure_accuracy, aggregate=_percent),
        _of_labels(name="f1", measure=_measure_f1, aggregate=_macro_f1),
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
