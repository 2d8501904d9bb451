"""Answers to questions: the likeliest spans of a context, read in windows where it is long."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import InputError, OptionError
from seq2edge.runtime.encoders import pool_each

if TYPE_CHECKING:
    from seq2edge.runtime.tokenizer import EncodedText
    from seq2edge.runtime.understanding import Understanding

WINDOW, OVERLAP = 384, 128  # tokens, question included; and what two windows share at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """A part of the context, `context[start:end]`; empty where there is none.

    The score is the probability of its first token times that of its last one, as far as one
    window knows.
    """

    text: str
    score: float
    start: int
    end: int


def answer(
    model: Understanding,
    question: str,
    context: str,
    *,
    top_k: int,
    longest: int,
    may_be_empty: bool,
    window: int | None,
    overlap: int | None,
    batch: int,
) -> list[Answer]:
    """See `Model.answer`."""
    for name, value in (("top_k", top_k), ("longest", longest)):
        if value < 1:
            raise OptionError(f"{name}: {value}, needs 1 or more")
    positions = model.text_positions
    if window is not None and positions is not None and window > positions:
        raise OptionError(f"window: {window} tokens, the model takes {positions}")
    size = window if window is not None else min(WINDOW, positions or WINDOW)
    shared = overlap if overlap is not None else min(size // 2, OVERLAP)
    windows = list(model.tokenizer.windows(question, context, longest=size, overlap=shared))
    if all(1 not in each.texts for each in windows):
        raise InputError("answer: the context has no tokens")
    best: dict[tuple[int, int], float] = {}
    empty = 1.0
    for each, logits in zip(windows, pool_each(model, windows, batch), strict=True):
        none, spans = _spans(each, logits, longest)
        empty = min(empty, none)
        for span, score in spans.items():
            best[span] = max(score, best.get(span, 0.0))
    answers = [
        Answer(text=context[start:end], score=score, start=start, end=end)
        for (start, end), score in best.items()
    ]
    if may_be_empty:
        answers.append(Answer(text="", score=empty, start=0, end=0))
    return sorted(answers, key=lambda each: -each.score)[:top_k]


def _spans(
    window: EncodedText, logits: NDArray[np.float32], longest: int
) -> tuple[float, dict[tuple[int, int], float]]:
    """How likely the window says that it has no answer, and how likely each span of words.

    Spans of tokens that are of the same words count together.
    """
    inside = np.array([text == 1 for text in window.texts])
    counted = inside.copy()
    counted[0] = True  # the special token at the beginning stands for no answer
    starts, ends = (_softmax(values, counted) for values in logits.T)
    none = float(starts[0] * ends[0])
    starts, ends = np.where(inside, starts, 0), np.where(inside, ends, 0)
    words = np.array(_words_of(window))
    spans: dict[tuple[int, int], float] = defaultdict(float)
    for more in range(min(longest, len(starts))):  # tokens behind the first one
        count = len(starts) - more
        scores = starts[:count] * ends[more:]
        for i in np.flatnonzero(scores).tolist():
            start, end = int(words[i, 0]), int(words[i + more, 1])
            if start < end:  # some tokens stand for no character
                spans[start, end] += float(scores[i])
    return none, spans


def _softmax(values: NDArray[np.float32], counted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Probabilities of the places that count, 0 for the others."""
    shifted = values.astype(np.float64) - values[counted].max()
    exponent = np.where(counted, np.exp(np.minimum(shifted, 0)), 0)
    result: NDArray[np.float64] = exponent / exponent.sum()
    return result


def _words_of(window: EncodedText) -> list[tuple[int, int]]:
    """The characters of the word that each token belongs to, first and behind the last."""
    words: dict[Any, tuple[int, int]] = {}
    keys = [
        (text, place if word is None else f"word {word}")
        for place, (text, word) in enumerate(zip(window.texts, window.words, strict=True))
    ]
    for key, (start, end) in zip(keys, window.spans, strict=True):
        first, last = words.get(key, (start, end))
        words[key] = min(first, start), max(last, end)
    return [words[key] for key in keys]
