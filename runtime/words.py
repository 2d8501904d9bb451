"""Which word of a source each word of an answer comes from, by what its tokens attended to."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.sequences import common_length

if TYPE_CHECKING:
    from seq2edge.runtime.sequences import GeneratedText
    from seq2edge.runtime.tokenizer import Tokenizer

Span: TypeAlias = tuple[int, int]  # the first character, and the one behind the last

INNER = "'\u2019-"  # part of a word between two of its letters
# Kana and ideographs, each of which is a word here: nothing between them says where words end.
SINGLE = ((0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordAlignment:
    """A word of an answer and the word of its source that it attended to most.

    Spans are characters, `text[source[0]:source[1]]`; `weight` is the part of the attention of the
    answer's word that went there, 0 to 1.
    """

    source: Span
    target: Span
    weight: float


def split_words(text: str) -> list[Span]:
    """The spans of words and of marks of punctuation, which are words of their own."""
    spans: list[Span] = []
    begin: int | None = None  # of the word that goes on
    for place, character in enumerate(text):
        if _is_letter(character) or (
            begin is not None
            and character in INNER
            and place + 1 < len(text)
            and _is_letter(text[place + 1])
        ):
            begin = place if begin is None else begin
            continue
        if begin is not None:
            spans.append((begin, place))
            begin = None
        if not character.isspace():
            spans.append((place, place + 1))
    if begin is not None:
        spans.append((begin, len(text)))
    return spans


def _is_letter(character: str) -> bool:
    """Whether a character may stand beside others in a word: a letter, its mark, a digit."""
    number = ord(character)
    single = any(first <= number <= last for first, last in SINGLE)
    return unicodedata.category(character)[0] in "LMN" and not single


def token_spans(tokenizer: Tokenizer, answer: GeneratedText) -> list[Span]:
    """What each id of an answer adds to its text; nothing where later ones finish a character."""
    spans: list[Span] = []
    before = 0
    for count in range(1, len(answer.ids) + 1):
        text = tokenizer.decode(answer.ids[:count])
        place = max(before, common_length(text, answer.text))
        spans.append((before, place))
        before = place
    return spans


def align_words(
    text: str, sources: Sequence[Span], answer: GeneratedText, targets: Sequence[Span]
) -> list[WordAlignment]:
    """For each word of the answer the source's with the largest weight, the first of equals.

    `sources` and `targets` are the spans of the ids that `answer.alignment` weighs.
    """
    assert answer.alignment is not None
    words, others = split_words(answer.text), split_words(text)
    if not words or not others:
        return []
    inside = _shares(targets, words)  # (ids, words)
    weights = inside.T @ answer.alignment @ _shares(sources, others)
    weights /= np.maximum(inside.sum(axis=0), 1e-9)[:, None]
    return [
        WordAlignment(source=others[int(row.argmax())], target=word, weight=float(row.max()))
        for word, row in zip(words, weights, strict=True)
        if row.max() > 0
    ]


def _shares(tokens: Sequence[Span], words: Sequence[Span]) -> NDArray[np.float64]:
    """What part of each token lies in each word (tokens, words); of spaces nothing counts."""
    if not tokens:
        return np.zeros((0, len(words)))
    first, last = np.array(tokens).T[:, :, None]
    begin, end = np.array(words).T[:, None]
    overlap = np.clip(np.minimum(last, end) - np.maximum(first, begin), 0, None).astype(float)
    shares: NDArray[np.float64] = overlap / np.maximum(overlap.sum(axis=1, keepdims=True), 1.0)
    return shares
