"""Times in what a speech model generates: the rules of their tokens, and segments made of them.

A token of time stands for a multiple of 20 ms since the window's beginning. Text stands between
two of them, and where another segment follows, its beginning comes right behind the end: pairs
(Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022, section 2.3).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.backend import Logits
from seq2edge.runtime.filters import NEVER

FRAMES = 2  # of features in a step of time: of 10 ms each


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimestampRules:
    """Keeps tokens of time to their rules; a processor of a request (`Request.processors`).

    `first` is the token of 0 s, all from it on are times; `no_timestamps` is never generated;
    texts are the tokens below `end`. `start` counts the prompt's tokens before the answer, and
    the answer's first time is at most `latest` steps.
    """

    first: int
    end: int
    no_timestamps: int
    start: int
    latest: int | None = None

    def __call__(self, tokens: NDArray[np.int64], scores: Logits) -> Logits:
        """Scores (rows, vocab) of what may follow the tokens (rows, length), changed in place."""
        scores[:, self.no_timestamps] = NEVER
        if tokens.shape[1] == self.start:
            scores[:, : self.first] = NEVER
            if self.latest is not None:
                scores[:, self.first + self.latest + 1 :] = NEVER
            return scores
        for row, ids in enumerate(tokens[:, self.start :]):
            self._forbid(ids, scores[row])
        times, texts = scores[:, self.first :], scores[:, : self.first]
        # Where times together are likelier than any one text, a time it is.
        likeliest = times.max(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):  # no time is possible
            total = np.log(np.exp(times - likeliest[:, None]).sum(axis=1)) + likeliest
        texts[total > texts.max(axis=1)] = NEVER
        return scores

    def _forbid(self, ids: NDArray[np.int64], scores: Logits) -> None:
        """Of one row's scores (vocab,) what the pairs and the order of times do not leave."""
        first = self.first
        last = ids[-1] >= first
        before = len(ids) < 2 or ids[-2] >= first
        if last:
            if before:
                scores[first:] = NEVER  # a pair is complete: text or the end
            else:
                scores[: self.end] = NEVER  # a segment has ended: another begins, or none
        times = ids[ids >= first]
        if len(times):
            # A segment may begin where the last one ended, and ends later than it begins.
            least = times[-1] if last and not before else times[-1] + 1
            scores[first : int(least)] = NEVER


@dataclasses.dataclass(frozen=True)
class Piece:
    """A segment of a window: its tokens, and steps of time from the window's beginning."""

    ids: tuple[int, ...]
    start: int
    end: int


def cut(ids: Sequence[int], first: int, frames: int) -> tuple[list[Piece], int]:
    """What segments a window's tokens make, and after how many frames the next window begins.

    `frames` hold sound in this one. What follows the last pair of times is unfinished and read
    again in the next window; where nothing follows the last time, or there is no pair, the window
    is done with.
    """
    times = [token >= first for token in ids]
    pairs = [i + 1 for i in range(len(ids) - 1) if times[i] and times[i + 1]]
    if not pairs:
        steps = [token - first for token in ids if token > first]
        last = steps[-1] if times_end(ids, first) else frames // FRAMES
        return [Piece(tuple(ids), 0, last)], frames
    alone = times[-2:] == [False, True]  # the last time has no other one behind it
    # The second time of the last pair says that there was one.
    ends = [*pairs, len(ids)] if alone else [*pairs[:-1], pairs[-1] + 1]
    pieces, begin = [], 0
    for end in ends:
        part = ids[begin:end]
        whole = end != ends[-1] or alone
        pieces.append(Piece(tuple(part), part[0] - first, part[-1 if whole else -2] - first))
        begin = end
    return pieces, frames if alone else (ids[begin - 2] - first) * FRAMES


def times_end(ids: Sequence[int], first: int) -> bool:
    """Whether the last time among these tokens is later than 0 s."""
    return next((token > first for token in reversed(ids) if token >= first), False)
