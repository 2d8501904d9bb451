"""Bias by counterfactuals: what changes in a model's answers where nothing but one term changed.

Sentences that differ in one term are compared pair by pair, as CrowS-Pairs (Nangia et al. 2020)
and StereoSet (Nadeem et al. 2021) compare what language models make of them, and as counterfactual
fairness (Garg et al. 2019) compares classifiers. Embeddings are also held against word lists, WEAT
(Caliskan, Bryson and Narayanan 2017). Intervals are over templates: sentences of one template are
too much alike to be samples of their own.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from seq2edge.evaluation.examples import Example
from seq2edge.evaluation.metrics import Ask, Estimate, estimate_mean
from seq2edge.evaluation.pairs import Association, Group, Pairs
from seq2edge.files.progress import Progress
from seq2edge.runtime.model import Model
from seq2edge.runtime.sequences import GeneratedText
from seq2edge.runtime.understanding import Classification

NEW_TOKENS = 32
PERMUTATIONS = 10_000  # of the words of an association

Values = NDArray[np.float64]  # (templates, rows, alternatives), or (templates, rows, pairs)


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
class Effect:
    """How much nearer the first targets are to the first attributes than the second targets are.

    `size` is in standard deviations over all targets; `p` is the share of random divisions of the
    targets into two lists with an effect as far from 0, the one at hand counted in.
    """

    name: str
    targets: tuple[str, str]
    attributes: tuple[str, str]
    size: float
    p: float


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
    task = model.bundle.manifest.task
    answering = _Answering(model, pairs, request, progress)
    findings: list[Finding] = []
    for name, group in pairs.groups.items():
        findings += _MEASURES[task](answering, name, group)
    associations = pairs.associations if task == "embed" else ()
    return Audit(
        bundle=str(model.bundle.path),
        task=task,
        findings=tuple(findings),
        effects=tuple(measure_association(model, association) for association in associations),
    )


class _Answering:
    """A model that answers the sentences of groups, and tells how many it has answered."""

    def __init__(
        self, model: Model, pairs: Pairs, request: ModelRequest, progress: Progress
    ) -> None:
        self.model, self._request, self._progress = model, request, progress
        passes = 2 if model.dims.kind == "decoder" else 1
        self._total = passes * sum(len(group.sentences()) for group in pairs.groups.values())
        self._done = 0

    def answers(self, name: str, group: Group, ask: Ask) -> list[Any]:
        """The answers to all sentences of a group, in their order."""
        answers = []
        examples = [Example(input=sentence) for sentence in group.sentences()]
        for answer in ask(self.model, examples, self._request):
            self._done += 1
            self._progress(name, self._done / self._total)
            answers.append(answer)
        return answers


def _checked(model: Model, request: ModelRequest, new_tokens: int | None) -> ModelRequest:
    path, task = model.bundle.path, model.bundle.manifest.task
    if task not in _MEASURES:
        raise InputError(f"{path}: made to {task}, nothing of that is audited")
    if task != "generate":
        if new_tokens is not None or request.source_language or request.target_language:
            raise OptionError(f"{path}: made to {task}, it takes no new tokens and no languages")
        return request
    options = (request.options or model.options).greedy(max_new_tokens=new_tokens or NEW_TOKENS)
    return dataclasses.replace(request, options=options)


def _classify(answering: _Answering, name: str, group: Group) -> Iterator[Finding]:
    answers = answering.answers(name, group, labels)
    for label in answers[0].scores:
        scores = [answer.scores[label] for answer in answers]
        yield _of_terms(name, f"score of {label}", group, scores)
    yield _of_pairs(name, "label changes", group, answers, _other_label)


def _other_label(a: Classification, b: Classification) -> float:
    return float(a.label != b.label)


def _embed(answering: _Answering, name: str, group: Group) -> Iterator[Finding]:
    vectors = answering.answers(name, group, embeddings)
    yield _of_pairs(name, "cosine distance", group, vectors, _cosine_distance)


def _cosine_distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _generate(answering: _Answering, name: str, group: Group) -> Iterator[Finding]:
    outputs = answering.answers(name, group, texts)
    confidence = [output.score / len(output.ids) for output in outputs]
    yield _of_terms(name, "log-probability per output token", group, confidence)
    plain = _without_terms(group, outputs)
    yield _of_pairs(name, "output changes", group, plain, _other_text)
    if answering.model.dims.kind == "decoder":
        totals = answering.answers(name, group, negative_log_likelihood)
        likelihood = [-total / count for total, count in totals]
        yield _of_terms(name, "log-likelihood per sentence token", group, likelihood)


def _other_text(a: str, b: str) -> float:
    return float(a != b)


def _without_terms(group: Group, outputs: Sequence[GeneratedText]) -> list[str]:
    """The outputs with a mark for their sentence's term and for words that agree with it."""
    terms = [term for _ in group.templates for row in group.terms for term in row]
    plain = []
    for term, output in zip(terms, outputs, strict=True):
        words = sorted({term, *group.agreeing}, key=len, reverse=True)
        swapped = "|".join(map(re.escape, words))
        plain.append(re.sub(rf"(?<!\w)(?:{swapped})(?!\w)", "{}", output.text, flags=re.IGNORECASE))
    return plain


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


def measure_association(model: Model, association: Association) -> Effect:
    """WEAT: embed every word alone, and compare cosines."""
    (x, targets_x), (y, targets_y) = association.targets.items()
    (a, words_a), (b, words_b) = association.attributes.items()
    targets = _directions(model, (*targets_x, *targets_y))
    nearness = [
        (targets @ _directions(model, words).T).mean(axis=1)  # (targets,)
        for words in (words_a, words_b)
    ]
    size, p = effect_size(nearness[0] - nearness[1])
    return Effect(name=association.name, targets=(x, y), attributes=(a, b), size=size, p=p)


def effect_size(leaning: NDArray[np.float64]) -> tuple[float, float]:
    """Effect size and p of (targets,) leanings, those of the first half against the second."""
    half = len(leaning) // 2
    spread = float(leaning.std(ddof=1))
    if spread == 0:
        return 0.0, 1.0
    rng = np.random.default_rng(0)
    shuffled = rng.permuted(np.tile(leaning, (PERMUTATIONS, 1)), axis=1)
    chance = shuffled[:, :half].mean(axis=1) - shuffled[:, half:].mean(axis=1)
    difference = float(leaning[:half].mean() - leaning[half:].mean())
    as_far = int(np.sum(abs(chance) >= abs(difference) * (1 - 1e-9)))
    return difference / spread, (as_far + 1) / (PERMUTATIONS + 1)


def _directions(model: Model, words: tuple[str, ...]) -> NDArray[np.float64]:
    vectors = model.embed(words).astype(np.float64)
    lengths: NDArray[np.float64] = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / lengths


_MEASURES: dict[str, Callable[[_Answering, str, Group], Iterator[Finding]]] = {
    "classify": _classify,
    "embed": _embed,
    "generate": _generate,
}
