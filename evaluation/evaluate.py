"""A bundle's metrics on a user's files, domain by domain, beside a baseline's."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from seq2edge.errors import InputError, OptionError
from seq2edge.evaluation.answers import ModelRequest, texts
from seq2edge.evaluation.examples import Example, read_examples
from seq2edge.evaluation.metrics import (
    USUAL,
    Estimate,
    Metric,
    Scores,
    choose_metric,
    normalized,
    score_answers,
    usual_metrics,
)
from seq2edge.evaluation.speech_times import transcripts
from seq2edge.evaluation.tables import aligned
from seq2edge.files.compressed import COMPRESSED
from seq2edge.files.progress import PartProgress, Progress
from seq2edge.runtime.model import Model

ALL = "all"

Domains = dict[str, list[Example]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A metric of one domain. `seconds` are those of the answers, which metrics may share.

    `change` is the value minus the baseline's, on the same examples.
    """

    domain: str
    metric: str
    value: Estimate
    examples: int
    seconds: float
    baseline: Estimate | None = None
    change: Estimate | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Measured:
    scores: Scores
    seconds: float


def read_domains(paths: Sequence[Path], task: str, *, limit: int | None = None) -> Domains:
    """Examples of all files by domain: the one they name, else the file where there are several.

    `limit` takes so many of each file, the first ones. Raises InputError as `read_examples`, and
    for a domain called "all".
    """
    short = [_short(path) for path in paths]
    again = Counter(short)
    domains: Domains = {}
    for path, name in zip(paths, short, strict=True):
        named = str(path) if again[name] > 1 else name
        for example in read_examples(path, task)[:limit]:
            default = named if len(paths) > 1 else ""
            domains.setdefault(example.domain or default, []).append(example)
    if ALL in domains:
        raise InputError(f"domain: {ALL!r} is what all together are called, name it otherwise")
    return domains


def _short(path: Path) -> str:
    name = path.name.removesuffix(path.suffix) if path.suffix in COMPRESSED else path.name
    return Path(name).stem


def choose_metrics(
    model: Model,
    examples: Sequence[Example],
    names: Sequence[str],
    request: ModelRequest,
    *,
    normalize: str | None = None,
) -> list[Metric]:
    """The metrics of these names, or the task's usual ones; whether the request goes with them.

    With `normalize` error rates of words and characters take texts after those rules, which their
    names then say; by default in lower case without punctuation.

    Raises OptionError and InputError as `choose_metric`, where a task has no usual metric, and for
    options that nothing would heed.
    """
    named = [choose_metric(model, examples, name) for name in dict.fromkeys(names)]
    metrics = [metric for metric in named if metric] or usual_metrics(model, examples)
    task = model.bundle.manifest.task
    if not metrics:
        has_metrics = task in USUAL
        fact = "its metrics need references, give them" if has_metrics else "it has no metric here"
        raise InputError(f"{model.bundle.path}: made to {task}, {fact}")
    _check(model, metrics, request)
    if normalize is not None:
        metrics = normalized(metrics, normalize, language=request.language)
    return metrics


def _check(model: Model, metrics: Sequence[Metric], request: ModelRequest) -> None:
    listed = ", ".join(metric.name for metric in metrics)
    decodes = any(metric.ask in (texts, transcripts) for metric in metrics)
    sound, reads = model.dims.task == "transcribe", "images" if model.dims.image else "text"
    if request.options is not None and not decodes:
        raise OptionError(f"decoding options: nothing is decoded for {listed}, leave them out")
    if request.options is not None and request.options.num_return_sequences > 1:
        raise OptionError("num_return_sequences: the best answer alone is judged, give 1")
    if (request.source_language or request.target_language) and (
        model.dims.reads_signal or not decodes
    ):
        raise OptionError("source and target language: for models that write about a text")
    if (request.language or request.task != "transcribe") and not sound:
        raise OptionError(f"language and task: of speech, this model reads {reads}")


def evaluate(
    model: Model,
    domains: Mapping[str, Sequence[Example]],
    metrics: Sequence[Metric],
    request: ModelRequest = ModelRequest(),  # noqa: B008 - frozen
    *,
    baseline: tuple[Model, ModelRequest] | None = None,
    progress: Progress = lambda *_: None,
) -> list[Row]:
    """Every metric of every domain, then of all together, with 95 % intervals.

    `baseline` is another model, asked in its own way on the same examples. Raises InputError
    where it is none for this model, and what metrics and models raise.
    """
    if baseline is not None:
        _check_baseline(model, baseline[0], metrics)
    mine = _measure(model, request, domains, metrics, lambda part: progress("answer", part))
    theirs: dict[tuple[str, str], _Measured] = {}
    if baseline is not None:
        theirs = _measure(*baseline, domains, metrics, lambda part: progress("baseline", part))
    return [_row(key, measured, theirs.get(key)) for key, measured in mine.items()]


def _check_baseline(model: Model, other: Model, metrics: Sequence[Metric]) -> None:
    task, path = model.bundle.manifest.task, other.bundle.path
    if other.bundle.manifest.task != task:
        raise InputError(f"{path}: made to {other.bundle.manifest.task}, a baseline has to {task}")
    counts_tokens = any(metric.name == "perplexity" for metric in metrics)
    if counts_tokens and _tokenizer_hash(model) != _tokenizer_hash(other):
        raise InputError(f"{path}: has another tokenizer, its perplexity is over other tokens")


def _tokenizer_hash(model: Model) -> str:
    manifest = model.bundle.manifest
    return manifest.files[manifest.tokenizer.source].sha256 if manifest.tokenizer else ""


def _measure(
    model: Model,
    request: ModelRequest,
    domains: Mapping[str, Sequence[Example]],
    metrics: Sequence[Metric],
    show: PartProgress,
) -> dict[tuple[str, str], _Measured]:
    """By domain and metric; a single domain is all there is."""
    asks = list(dict.fromkeys(metric.ask for metric in metrics))
    total = len(asks) * sum(map(len, domains.values()))
    done = 0
    parts: dict[str, list[_Measured]] = {metric.name: [] for metric in metrics}
    measured: dict[tuple[str, str], _Measured] = {}
    for domain, examples in domains.items():
        for ask in asks:
            answers, begin = [], time.perf_counter()
            for answer in ask(model, examples, request):
                answers.append(answer)
                done += 1
                show(done / total)
            seconds = time.perf_counter() - begin
            for metric in (metric for metric in metrics if metric.ask is ask):
                scores = score_answers(metric, answers, examples)
                parts[metric.name].append(_Measured(scores=scores, seconds=seconds))
                measured[domain, metric.name] = parts[metric.name][-1]
    whole = {(ALL, metric.name): _together(parts[metric.name]) for metric in metrics}
    return {**measured, **whole} if len(domains) > 1 else whole


def _together(parts: Sequence[_Measured]) -> _Measured:
    sums = np.concatenate([part.scores.sums for part in parts])
    scores = Scores(metric=parts[0].scores.metric, sums=sums)
    return _Measured(scores=scores, seconds=sum(part.seconds for part in parts))


def _row(key: tuple[str, str], mine: _Measured, theirs: _Measured | None) -> Row:
    domain, metric = key
    return Row(
        domain=domain,
        metric=metric,
        value=mine.scores.estimate(),
        examples=len(mine.scores.sums),
        seconds=mine.seconds,
        baseline=theirs.scores.estimate() if theirs else None,
        change=mine.scores.change_from(theirs.scores) if theirs else None,
    )


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The rows as lines of text, with their heads."""
    several = len({row.domain for row in rows}) > 1
    compared = any(row.change for row in rows)
    heads = ["domain"] * several + ["metric", "value", "95 % CI"]
    heads += ["baseline", "change", "95 % CI"] * compared
    cells = [_cells(row, several=several) for row in rows]
    lines = [[*heads, "examples", "seconds", "examples/s"], *cells]
    yield from aligned(lines, left=1 + several)


def _cells(row: Row, *, several: bool) -> list[str]:
    cells = [row.domain] * several
    cells += [row.metric, f"{row.value.value:.2f}", _interval(row, row.value, "")]
    if row.baseline and row.change:
        cells += [f"{row.baseline.value:.2f}", f"{row.change.value:+.2f}"]
        cells.append(_interval(row, row.change, "+"))
    rate = row.examples / row.seconds if row.seconds else float("inf")
    return [*cells, str(row.examples), f"{row.seconds:.2f}", f"{rate:.1f}"]


def _interval(row: Row, estimate: Estimate, sign: str) -> str:
    """Where the value lies; a single example tells nothing about that."""
    if row.examples < 2:
        return "-"
    return f"{estimate.low:{sign}.2f} to {estimate.high:{sign}.2f}"
