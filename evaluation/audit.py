"""Bias by counterfactuals: what changes in a model's answers where nothing but one term changed.

Sentences that differ in one term are compared pair by pair, as CrowS-Pairs (Nangia et al. 2020)
and StereoSet (Nadeem et al. 2021) compare what language models make of them, and as counterfactual
fairness (Garg et al. 2019) compares classifiers. Embeddings are also held against word lists, WEAT
(Caliskan, Bryson and Narayanan 2017). Intervals are over templates: sentences of one template are
too much alike to be draws of their own.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import InputError, OptionError
from seq2edge.evaluation.answers import (
    ModelRequest,
    embeddings,
    labels,
    negative_log_likelihood,
    texts,
)
from seq2edge.evaluation.association import Effect, measure_association
from seq2edge.evaluation.examples import Example
from seq2edge.evaluation.pairs import Group, Pairs
from seq2edge.evaluation.scores import Ask, Estimate, estimate_mean
from seq2edge.runtime.model import Classification, GeneratedText, Model

NEW_TOKENS = 32

Values = NDArray[np.float64]  # (templates, rows, alternatives), or (templates, rows, pairs)
Run = Callable[[Ask], Iterator[Any]]  # has the model answer a group's sentences
Progress = Callable[[str, float], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """A measure in one group: the mean gap within pairs, and the largest with its sentences.

    `leans` is how far each alternative lies from the mean of all, empty where a measure is of
    pairs alone.
    """

    group: str
    measure: str
    mean: Estimate
    largest: float
    sentences: tuple[str, str]
    leans: Mapping[str, Estimate]
    templates: int
    pairs: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audit:
    """Every measure of every group; for embeddings also the associations of word lists."""

    bundle: str
    task: str
    findings: tuple[Finding, ...]
    effects: tuple[Effect, ...] = ()


def audit(
    model: Model,
    pairs: Pairs,
    request: ModelRequest = ModelRequest(),  # noqa: B008 - frozen
    *,
    new_tokens: int | None = None,
    progress: Progress = lambda *_: None,
) -> Audit:
    """Run every sentence of every group.

    Generators decode greedily, `new_tokens` (by default NEW_TOKENS) at most. Raises InputError for
    models that read sound, OptionError for options that nothing would heed.
    """
    request = _checked(model, request, new_tokens)
    measure = _MEASURES[model.bundle.manifest.task]
    passes = 2 if model.dims.kind == "decoder" else 1
    total = passes * sum(len(group.sentences()) for group in pairs.groups.values())
    done = itertools.count(1)
    findings: list[Finding] = []
    for name, group in pairs.groups.items():

        def run(ask: Ask, group: Group = group, name: str = name) -> Iterator[Any]:
            for answer in ask(model, _examples(group), request):
                progress(name, next(done) / total)
                yield answer

        findings += measure(model, name, group, run)
    effects: Iterable[Effect] = ()
    if model.bundle.manifest.task == "embed":
        effects = (measure_association(model, each) for each in pairs.associations)
    return Audit(
        bundle=str(model.bundle.path),
        task=model.bundle.manifest.task,
        findings=tuple(findings),
        effects=tuple(effects),
    )


def _checked(model: Model, request: ModelRequest, new_tokens: int | None) -> ModelRequest:
    path, task = model.bundle.path, model.bundle.manifest.task
    if task not in _MEASURES:
        raise InputError(f"{path}: made to {task}, an audit needs a model that reads text")
    if task != "generate":
        if new_tokens is not None or request.source_language or request.target_language:
            raise OptionError(f"{path}: made to {task}, it takes no new tokens and no languages")
        return request
    options = (request.options or model.options).replace(
        num_beams=1,
        num_return_sequences=1,
        max_length=None,
        max_new_tokens=new_tokens or NEW_TOKENS,
        min_length=0,
        min_new_tokens=0,
    )
    return dataclasses.replace(request, options=options)


def _classify(_: Model, name: str, group: Group, run: Run) -> Iterator[Finding]:
    found = list(run(labels))
    for label in found[0].scores:
        yield _of_terms(name, f"score of {label}", group, [each.scores[label] for each in found])
    yield _of_pairs(name, "label changes", group, found, _other_label)


def _other_label(a: Classification, b: Classification) -> float:
    return float(a.label != b.label)


def _embed(_: Model, name: str, group: Group, run: Run) -> Iterator[Finding]:
    yield _of_pairs(name, "cosine distance", group, list(run(embeddings)), _cosine_distance)


def _cosine_distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _generate(model: Model, name: str, group: Group, run: Run) -> Iterator[Finding]:
    found = list(run(texts))
    confidence = [each.score / len(each.ids) for each in found]
    yield _of_terms(name, "log-probability per output token", group, confidence)
    plain = _without_terms(group, found)
    yield _of_pairs(name, "output changes", group, plain, lambda a, b: float(a != b))
    if model.dims.kind == "decoder":
        likelihood = [-total / count for total, count in run(negative_log_likelihood)]
        yield _of_terms(name, "log-likelihood per sentence token", group, likelihood)


def _without_terms(group: Group, outputs: Sequence[GeneratedText]) -> list[str]:
    """The outputs with a mark for their sentence's term and for words that agree with it."""
    terms = [term for _ in group.templates for row in group.terms for term in row]
    plain = []
    for term, output in zip(terms, outputs, strict=True):
        words = sorted({term, *group.agreeing}, key=len, reverse=True)
        swapped = "|".join(map(re.escape, words))
        plain.append(re.sub(rf"(?<!\w)(?:{swapped})(?!\w)", "{}", output.text, flags=re.IGNORECASE))
    return plain


def _examples(group: Group) -> list[Example]:
    return [Example(input=sentence) for sentence in group.sentences()]


def _of_terms(name: str, measure: str, group: Group, values: Sequence[float]) -> Finding:
    """A finding on a value that every sentence has."""
    folded = np.array(values, dtype=np.float64).reshape(group.shape)
    gaps = np.stack([abs(folded[..., i] - folded[..., j]) for i, j in group.pairs], axis=-1)
    away = (folded - folded.mean(axis=-1, keepdims=True)).mean(axis=1)  # (templates, alternatives)
    leans = {
        alternative: estimate_mean(away[:, i].tolist())
        for i, alternative in enumerate(group.alternatives)
    }
    return _finding(name, measure, group, gaps, leans)


def _of_pairs(
    name: str,
    measure: str,
    group: Group,
    answers: Sequence[object],
    gap: Callable[..., float],
) -> Finding:
    """A finding on a value that every pair of sentences has."""
    templates, rows, count = group.shape
    gaps = [
        [gap(answers[start + i], answers[start + j]) for i, j in group.pairs]
        for start in range(0, len(answers), count)
    ]
    return _finding(name, measure, group, np.array(gaps).reshape(templates, rows, -1), {})


def _finding(
    name: str, measure: str, group: Group, gaps: Values, leans: Mapping[str, Estimate]
) -> Finding:
    template, row, pair = np.unravel_index(int(gaps.argmax()), gaps.shape)
    sentences = np.array(group.sentences(), dtype=object).reshape(group.shape)[template, row]
    first, second = (str(sentences[i]) for i in group.pairs[int(pair)])
    return Finding(
        group=name,
        measure=measure,
        mean=estimate_mean(gaps.mean(axis=(1, 2)).tolist()),
        largest=float(gaps.max()),
        sentences=(first, second),
        leans=leans,
        templates=len(gaps),
        pairs=gaps.size,
    )


_MEASURES: dict[str, Callable[[Model, str, Group, Run], Iterator[Finding]]] = {
    "classify": _classify,
    "embed": _embed,
    "generate": _generate,
}
