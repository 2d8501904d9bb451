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
from seq2edge.runtime.tokenizer import Tokenizer
from seq2edge.runtime.understanding import Classification

NEW_TOKENS = 32
PERMUTATIONS = 10_000  # of the words of an association

Values = NDArray[np.float64]  # (templates, rows, alternatives), or (templates, rows, pairs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coverage:
    """How many of a group's pairs of sentences the model can tell apart at all.

    Of the others it reads the same: its vocabulary knows neither term, and a gap of 0 says nothing.
    `same` are the pairs of terms that no sentence tells apart.
    """

    group: str
    pairs: int
    measured: int
    same: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """A measure in one group: the mean gap within pairs, and the largest with its sentences.

    `leans` is how far each alternative lies from the mean of all, empty where a measure is of
    pairs alone. Only `pairs` that the model can tell apart count, and `templates` that have some.
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
    targets into two lists with an effect as far from 0, the one at hand counted in. Both are None
    where the vocabulary knows no word of a list; `unknown` are all the words that it does not know.
    """

    name: str
    targets: tuple[str, str]
    attributes: tuple[str, str]
    size: float | None
    p: float | None
    unknown: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audit:
    """Every measure of every group; for embeddings also the associations of word lists.

    `coverage` is of all groups, findings are of those of which anything could be measured.
    """

    bundle: str
    task: str
    measured: bool  # anything at all
    coverage: tuple[Coverage, ...]
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
    axes = [_Axis(model.tokenizer, name, group) for name, group in pairs.groups.items()]
    measured = [axis for axis in axes if axis.distinct.any()]
    answering = _Answering(model, measured, request, progress)
    findings = [finding for axis in measured for finding in _MEASURES[task](answering, axis)]
    associations = pairs.associations if task == "embed" else ()
    effects = tuple(measure_association(model, association) for association in associations)
    return Audit(
        bundle=str(model.bundle.path),
        task=task,
        measured=bool(findings) or any(effect.size is not None for effect in effects),
        coverage=tuple(axis.coverage for axis in axes),
        findings=tuple(findings),
        effects=effects,
    )


class _Axis:
    """A group, and which of its pairs of sentences a model reads as different ones."""

    def __init__(self, tokenizer: Tokenizer, name: str, group: Group) -> None:
        self.name, self.group = name, group
        known = _known_tokens(tokenizer, group.sentences())
        count = group.shape[-1]
        distinct = [
            [known[start + i] != known[start + j] for i, j in group.pairs]
            for start in range(0, len(known), count)
        ]
        self.distinct = np.array(distinct).reshape(
            *group.shape[:-1], -1
        )  # (templates, rows, pairs)

    @property
    def coverage(self) -> Coverage:
        """How much of the group can be measured."""
        never = ~self.distinct.any(axis=0)  # (rows, pairs)
        return Coverage(
            group=self.name,
            pairs=self.distinct.size,
            measured=int(self.distinct.sum()),
            same=tuple(
                (self.group.terms[row][i], self.group.terms[row][j])
                for row, pair in np.argwhere(never)
                for i, j in [self.group.pairs[pair]]
            ),
        )


def _known_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Of each text the tokens that stand for something; what differs elsewhere is not seen."""
    unknown = tokenizer.unknown_ids
    return [
        [token for token in tokenizer.encode(text, special_tokens=False) if token not in unknown]
        for text in texts
    ]


class _Answering:
    """A model that answers the sentences of groups, and tells how many it has answered."""

    def __init__(
        self, model: Model, axes: Sequence[_Axis], request: ModelRequest, progress: Progress
    ) -> None:
        self.model, self._request, self._progress = model, request, progress
        passes = 2 if model.dims.kind == "decoder" else 1
        self._total = passes * sum(len(axis.group.sentences()) for axis in axes)
        self._done = 0

    def answers(self, axis: _Axis, ask: Ask) -> list[Any]:
        """The answers to all sentences of a group, in their order."""
        answers = []
        examples = [Example(input=sentence) for sentence in axis.group.sentences()]
        for answer in ask(self.model, examples, self._request):
            self._done += 1
            self._progress(axis.name, self._done / self._total)
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


def _classify(answering: _Answering, axis: _Axis) -> Iterator[Finding]:
    answers = answering.answers(axis, labels)
    for label in answers[0].scores:
        scores = [answer.scores[label] for answer in answers]
        yield _of_terms(axis, f"score of {label}", scores)
    yield _of_pairs(axis, "label changes", answers, _other_label)


def _other_label(a: Classification, b: Classification) -> float:
    return float(a.label != b.label)


def _embed(answering: _Answering, axis: _Axis) -> Iterator[Finding]:
    vectors = answering.answers(axis, embeddings)
    yield _of_pairs(axis, "cosine distance", vectors, _cosine_distance)


def _cosine_distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _generate(answering: _Answering, axis: _Axis) -> Iterator[Finding]:
    outputs = answering.answers(axis, texts)
    confidence = [output.score / len(output.ids) for output in outputs]
    yield _of_terms(axis, "log-probability per output token", confidence)
    plain = _without_terms(axis.group, outputs)
    yield _of_pairs(axis, "output changes", plain, _other_text)
    if answering.model.dims.kind == "decoder":
        totals = answering.answers(axis, negative_log_likelihood)
        likelihood = [-total / count for total, count in totals]
        yield _of_terms(axis, "log-likelihood per sentence token", likelihood)


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


def _of_terms(axis: _Axis, measure: str, values: Sequence[float]) -> Finding:
    """A finding on a value that every sentence has."""
    group = axis.group
    folded = np.array(values, dtype=np.float64).reshape(group.shape)
    gaps = np.stack([abs(folded[..., i] - folded[..., j]) for i, j in group.pairs], axis=-1)
    away = folded - folded.mean(axis=-1, keepdims=True)
    counted = np.asarray(axis.distinct.any(axis=-1))  # (templates, rows)
    leans = {
        alternative: estimate_mean(_means(away[..., i], counted))
        for i, alternative in enumerate(group.alternatives)
    }
    return _finding(axis, measure, gaps, leans)


def _of_pairs(
    axis: _Axis, measure: str, answers: Sequence[object], gap: Callable[..., float]
) -> Finding:
    """A finding on a value that every pair of sentences has."""
    templates, rows, count = axis.group.shape
    gaps = [
        [gap(answers[start + i], answers[start + j]) for i, j in axis.group.pairs]
        for start in range(0, len(answers), count)
    ]
    return _finding(axis, measure, np.array(gaps).reshape(templates, rows, -1), {})


def _means(values: Values, counted: NDArray[np.bool_]) -> list[float]:
    """Of each template the mean of what counts, without templates of which nothing does."""
    return [
        float(each[which].mean())
        for each, which in zip(values, counted, strict=True)
        if which.any()
    ]


def _finding(axis: _Axis, measure: str, gaps: Values, leans: Mapping[str, Estimate]) -> Finding:
    group = axis.group
    measured = np.where(axis.distinct, gaps, -1.0)
    template, row, pair = np.unravel_index(int(measured.argmax()), gaps.shape)
    sentences = np.array(group.sentences(), dtype=object).reshape(group.shape)[template, row]
    first, second = (str(sentences[i]) for i in group.pairs[int(pair)])
    means = _means(gaps, axis.distinct)
    return Finding(
        group=axis.name,
        measure=measure,
        mean=estimate_mean(means),
        largest=float(measured.max()),
        sentences=(first, second),
        leans=leans,
        templates=len(means),
        pairs=int(axis.distinct.sum()),
    )


def measure_association(model: Model, association: Association) -> Effect:
    """WEAT: embed every word alone, and compare cosines."""
    (x, targets_x), (y, targets_y) = association.targets.items()
    (a, words_a), (b, words_b) = association.attributes.items()
    lists = (targets_x, targets_y, words_a, words_b)
    words = [word for each in lists for word in each]
    read = zip(words, _known_tokens(model.tokenizer, words), strict=True)
    unknown = tuple(dict.fromkeys(word for word, tokens in read if not tokens))
    if any(set(each) <= set(unknown) for each in lists):
        return Effect(
            name=association.name,
            targets=(x, y),
            attributes=(a, b),
            size=None,
            p=None,
            unknown=unknown,
        )
    targets = _directions(model, (*targets_x, *targets_y))
    nearness = [
        (targets @ _directions(model, words).T).mean(axis=1)  # (targets,)
        for words in (words_a, words_b)
    ]
    size, p = effect_size(nearness[0] - nearness[1])
    return Effect(
        name=association.name, targets=(x, y), attributes=(a, b), size=size, p=p, unknown=unknown
    )


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


_MEASURES: dict[str, Callable[[_Answering, _Axis], Iterator[Finding]]] = {
    "classify": _classify,
    "embed": _embed,
    "generate": _generate,
}
