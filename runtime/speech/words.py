"""When each word of a window is said: what its tokens attended to, aligned with the sound.

Cross-attention of some heads follows the audio. Its weights are normalised over the tokens,
filtered by a running median over time and averaged; the cheapest path through the result, dynamic
time warping (Sakoe and Chiba 1978), says from which encoder position on each token is heard. That
is the method of openai/whisper's `timing.py`, and of transformers.
"""

from __future__ import annotations

import dataclasses
import statistics
import string
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle.engine_info import ALIGNMENT
from seq2edge.errors import OptionError
from seq2edge.runtime.speech.language import UNSPACED
from seq2edge.runtime.speech.tokens import STEP
from seq2edge.runtime.speech.transcript import Segment, Word

if TYPE_CHECKING:
    from seq2edge.runtime.model import Model
    from seq2edge.runtime.sequences import GeneratedSequence
    from seq2edge.runtime.tokenizer import Tokenizer

# When in the recording it is so many seconds of a window; whether something ends or begins then.
Clock: TypeAlias = Callable[[float, bool], float]

MEAN: Final = "gives the mean of its alignment heads; export it again with --alignments"
AXES: Final = 3  # of an alignment that tells its heads apart: rows, heads, source
WIDTH: Final = 7  # positions of the running median
# Exchanges that bring the median of seven values to the place 3 (Devillard, "Fast median search").
NETWORK: Final = (
    *((0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6)),
    *((2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4)),
)
OPENING: Final = "\"'“¿¡([{-"  # marks that belong to the word behind them
CLOSING: Final = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001 - and to the word before them
SENTENCE_ENDS: Final = ".。!！?？"  # noqa: RUF001
UNKNOWN: Final = "\ufffd"  # what a part of a character is decoded to
LONGEST_MEDIAN: Final = 0.7  # seconds that a word may usually last
PAUSES: Final = 2  # usual words' lengths that are a pause
SLACK: Final = 0.3  # seconds that a word may stand beyond its segment


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Piece:
    """A word's text and the places of its tokens in a segment; those of marks at it are not."""

    text: str
    places: tuple[int, ...]


def check_words(model: Model) -> None:
    """Raise OptionError for a model whose words have no times here."""
    if not model.dims.alignment_by_head:
        raise OptionError(f"words: {model.bundle.path} is no Whisper, its words have no times")
    if not model.backend.aligns:
        raise OptionError(
            f"words: {model.bundle.path} gives no alignments on {model.backend.name}; export it "
            "with --alignments and run its graphs on the cpu or cuda"
        )
    if not _by_head(model):
        raise OptionError(f"words: {model.bundle.path} {MEAN}")


def has_words(model: Model) -> bool:
    """Whether the words of a model have times here: what `check_words` asks."""
    return model.dims.alignment_by_head and model.backend.aligns and _by_head(model)


def _by_head(model: Model) -> bool:
    """Whether alignments are of each head; bundles of older versions give the mean of all."""
    outputs = [output for graph in model.bundle.manifest.graphs for output in graph.outputs]
    return any(each.name == ALIGNMENT and len(each.shape) == AXES for each in outputs)


def times_of_words(
    segments: Sequence[Segment],
    answer: GeneratedSequence,
    tokenizer: Tokenizer,
    *,
    clock: Clock,
    seconds: float,
    heard_until: float = 0.0,
) -> list[Segment]:
    """The segments of one window with their words.

    Their ids follow each other in the answer's, from its first on; `answer` was decoded with
    alignments and log-probabilities. The window has `seconds` of the recording, and `clock` says
    when in it something begins or ends; the word before it ended at `heard_until`. Raises
    OptionError for an answer without these, or with the mean of the heads alone, as bundles of
    older versions give it.
    """
    if answer.alignment is None or answer.logprobs is None:
        raise OptionError("words: the answer has no alignment or no log-probabilities")
    if answer.alignment.ndim != AXES and answer.ids:
        raise OptionError(f"words: this bundle {MEAN}")
    added = tokenizer.added_ids()
    times = _times(answer, added, max(1, round(seconds / STEP)))
    likely = np.exp([entry.logprob for entry in answer.logprobs])
    timed: list[Segment] = []
    first = 0
    for segment in segments:
        places = [i for i, number in enumerate(segment.ids, first) if number not in added]
        words = []
        for piece in split_words(tokenizer, [answer.ids[i] for i in places], segment.language):
            mine = [places[i] for i in piece.places]
            begin = clock(float(times[mine[0]]), False)
            end = max(begin, clock(float(times[mine[-1] + 1]), True))
            probability = float(likely[mine].mean())
            words.append(Word(text=piece.text, start=begin, end=end, probability=probability))
        words = _plausible(words, segment, heard_until)
        heard_until = words[-1].end if words else heard_until
        timed.append(dataclasses.replace(segment, words=tuple(words)))
        first += len(segment.ids)
    return timed


def _times(answer: GeneratedSequence, added: set[int], positions: int) -> NDArray[np.float64]:
    """From when on each id is heard, and when the last one ends; seconds of the window (ids + 1,).

    A token's weights are those of the step that chose it. A time that an answer begins with is
    chosen before anything is heard, so it is left out, as transformers does.
    """
    assert answer.alignment is not None
    first = int(bool(answer.ids) and answer.ids[0] in added)
    heard = token_times(answer.alignment[first:], positions)
    times: NDArray[np.float64] = np.concatenate((np.zeros(first), heard, [positions * STEP]))
    return times


def token_times(alignment: NDArray[np.float32], positions: int) -> NDArray[np.float64]:
    """From when on each token is heard, in seconds (tokens,), by the weights of some heads.

    `alignment` is (tokens, heads, source), of which the first `positions` are of the recording. The
    first token is heard from the beginning on.
    """
    if not len(alignment):
        return np.zeros(0)
    positions = min(positions, alignment.shape[2])
    matrix = np.zeros((len(alignment), positions))
    for head in range(alignment.shape[1]):
        weights = alignment[:, head, :positions]
        spread = weights.std(axis=0)
        # A position that all tokens attend to alike says nothing about any of them.
        centred = (weights - weights.mean(axis=0)) / np.where(spread > 0, spread, 1)
        matrix += running_median(centred)
    return STEP * warp(-matrix / alignment.shape[1]).astype(np.float64)


def running_median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The median of each value and its three neighbours on both sides, along the last axis.

    At the ends values are mirrored; of three or fewer nothing is filtered.
    """
    side = WIDTH // 2
    count = values.shape[-1]
    if count <= side:
        return values
    padded = np.pad(values, [*[(0, 0)] * (values.ndim - 1), (side, side)], mode="reflect")
    parts = [padded[..., i : i + count] for i in range(WIDTH)]
    for low, high in NETWORK:
        one, other = parts[low], parts[high]
        parts[low], parts[high] = np.minimum(one, other), np.maximum(one, other)
    return parts[side]


def warp(costs: NDArray[np.float64]) -> NDArray[np.int64]:
    """The first column of each row on the cheapest path through costs (rows, columns).

    It leads from the first row and column to the last ones by steps of one row, one column or both.
    A row's total costs are t[j] = c[j] + min(t[j - 1], a[j]), where a[j] is the least of the row
    above at j - 1 and j; with the running sums s of c that is s[j] + min over k <= j of
    a[k] - s[k - 1], so that a row takes a few operations on whole arrays.
    """
    rows, columns = costs.shape
    steps = np.empty((rows, columns), dtype=np.int8)  # 0: from both before, 1: from above, 2: left
    above = np.full(columns + 1, np.inf)
    above[0] = 0.0
    for row, line in enumerate(costs):
        sums = np.concatenate(([0.0], np.cumsum(line)))
        least = np.minimum(above[:-1], above[1:])
        total = np.concatenate(([np.inf], sums[1:] + np.minimum.accumulate(least - sums[:-1])))
        both, up, left = above[:-1], above[1:], total[:-1]
        steps[row] = np.where(
            (both < up) & (both < left), 0, np.where((up < both) & (up < left), 1, 2)
        )
        above = total
    return _first_columns(steps)


def _first_columns(steps: NDArray[np.int8]) -> NDArray[np.int64]:
    """Where the path that ends in the last row and column enters each row."""
    rows, columns = steps.shape
    entered = np.zeros(rows, dtype=np.int64)
    row, column = rows - 1, columns - 1
    while row >= 0:
        entered[row] = column
        step = 1 if column == 0 else 2 if row == 0 else int(steps[row, column])
        row -= step < 2
        column -= step != 1
    return entered


def split_words(tokenizer: Tokenizer, ids: Sequence[int], language: str) -> list[_Piece]:
    """The words of text tokens: parted by spaces, or of some languages every character.

    Marks stand at the word before or behind them. All texts joined are that of the ids.
    """
    pieces = _characters(tokenizer, ids)
    if language not in UNSPACED:
        pieces = _join_parts(pieces)
    return _join_marks(pieces)


def _characters(tokenizer: Tokenizer, ids: Sequence[int]) -> list[_Piece]:
    """As few tokens together as make whole characters."""
    whole = tokenizer.decode(ids, clean=False)
    pieces: list[_Piece] = []
    first, before = 0, 0
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end], clean=False)[before:]
        open_at = text.find(UNKNOWN)
        # Where the whole text has it too, no later token finishes the character.
        unfinished = open_at >= 0 and whole[before + open_at : before + open_at + 1] != UNKNOWN
        if unfinished and end < len(ids):
            continue
        pieces.append(_Piece(text=text, places=tuple(range(first, end))))
        first, before = end, before + len(text)
    return pieces


def _join_parts(pieces: Sequence[_Piece]) -> list[_Piece]:
    """Words begin with a space; marks of ASCII are kept apart for now."""
    words: list[_Piece] = []
    for piece in pieces:
        mark = all(character in string.punctuation for character in piece.text.strip())
        last = words[-1] if words else None
        if last and (not last.text.strip() or not (mark or piece.text.startswith(" "))):
            words[-1] = _Piece(text=last.text + piece.text, places=last.places + piece.places)
        else:
            words.append(piece)
    return words


def _join_marks(pieces: Sequence[_Piece]) -> list[_Piece]:
    """Marks and what is blank become a part of a word's text, and none of its time."""
    words: list[_Piece] = []
    opening = ""
    for piece in pieces:
        text, mark = piece.text, piece.text.strip()
        closing = not mark or (text in CLOSING and bool(words) and words[-1].text[-1:] != " ")
        if closing and words and not opening:
            words[-1] = dataclasses.replace(words[-1], text=words[-1].text + text)
        elif not mark or (text.startswith(" ") and mark in OPENING):
            opening += text
        else:
            words.append(_Piece(text=opening + text, places=piece.places))
            opening = ""
    if opening and words:
        words[-1] = dataclasses.replace(words[-1], text=words[-1].text + opening)
    elif opening.strip():  # nothing else is said
        words.append(_Piece(text=opening, places=tuple(i for p in pieces for i in p.places)))
    return words


def _plausible(words: Sequence[Word], segment: Segment, heard_until: float) -> list[Word]:
    """The words of a segment without the pauses that alignment gives to their ends.

    The path has to lie somewhere while nobody speaks. Much as openai/whisper does it: a word behind
    the end of a sentence or behind a pause lasts at most twice as long as words usually do, and
    where the first or last one reaches far beyond the segment, the segment is right. Its limits
    are those that erred least on telephone prompts between pauses (docs/speech.md).
    """
    lengths = [word.end - word.start for word in words if word.end > word.start]
    if not lengths:
        return list(words)
    usual = min(LONGEST_MEDIAN, statistics.median(lengths))
    longest = 2 * usual
    result = list(words)
    for i, word in enumerate(words):
        if i and word.end - word.start > longest and words[i - 1].text[-1:] in SENTENCE_ENDS:
            result[i] = dataclasses.replace(word, start=word.end - longest)
    first = result[0]
    if first.end - first.start > longest and first.end - heard_until > PAUSES * usual:
        result[0] = first = dataclasses.replace(first, start=first.end - longest)
    if first.start + SLACK < segment.start < first.end:
        result[0] = dataclasses.replace(first, start=min(first.end - usual, segment.start))
    last = result[-1]
    if last.start < segment.end < last.end - SLACK:
        result[-1] = dataclasses.replace(last, end=max(last.start + usual, segment.end))
    return result
