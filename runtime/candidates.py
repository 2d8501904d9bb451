"""Choosing among a few candidates as if all tokens were there.

Filters that only lower scores leave every other token at most as likely as the least candidate was
before them. So what is found among the candidates is what would be found among all, ties too, as
long as the last token that is taken is above that bound. Where it is not (equal logits reach the
bound, or too many candidates are forbidden), who chooses asks for all logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.backend import Candidates, Logits
from seq2edge.runtime.filters import NEVER, Filter
from seq2edge.runtime.likelihood import checked
from seq2edge.runtime.sequences import History

PARTS = 64  # of a row: the largest of each place in them are compared before all values are


class LargestLogits:
    """Finds the largest logits of each row and the log-sum-exp of all, where a backend gives all.

    Keeps its array from step to step: fresh memory of that size costs more than the sums.
    """

    def __init__(self) -> None:
        self._shifted: Logits = np.empty((0, 0), dtype=np.float32)

    def __call__(self, logits: Logits, k: int) -> Candidates:
        """The k largest logits of each row, of equal ones the first."""
        rows, vocab = logits.shape
        k = min(k, vocab)
        highest, least = largest_bounds(logits, k)
        ids = np.empty((rows, k), dtype=np.int64)
        for row in range(rows):
            places = np.flatnonzero(logits[row] >= least[row])  # k of them, or more of equal ones
            if len(places) > k:
                order = np.argsort(-logits[row, places], kind="stable")
                places = places[order[:k]]
            elif len(places) < k:  # NaN, which the sums tell
                places = np.arange(k)
            ids[row] = places
        return Candidates(
            values=np.take_along_axis(logits, ids, axis=1),
            ids=ids,
            log_sum_exp=self._log_sum_exp(logits, highest),
            vocab=vocab,
            logits=lambda: logits,
            first_of_equals=True,
        )

    def _log_sum_exp(self, logits: Logits, highest: Logits) -> NDArray[np.float64]:
        if self._shifted.shape != logits.shape:
            self._shifted = np.empty_like(logits)
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            np.subtract(logits, highest[:, None], out=self._shifted)
            np.exp(self._shifted, out=self._shifted)
            total = np.log(self._shifted.sum(axis=1, dtype=np.float64)) + highest
        return np.asarray(total)


def largest_bounds(logits: Logits, k: int) -> tuple[Logits, Logits]:
    """The largest logit of each row, and a bound that k of its logits reach, both (rows,).

    No lower than the k-th largest of the maxima below, so that few more than k reach it.
    """
    # Sorting a vocabulary can cost more than a small model's step. Seen as PARTS lines below each
    # other, a row has one maximum in each column; the k largest of those are k logits.
    rows, vocab = logits.shape
    width = vocab // PARTS
    maxima = logits
    if width > 2 * k:
        lines = logits[:, : PARTS * width].reshape(rows, PARTS, width)
        maxima = np.concatenate((lines.max(axis=1), logits[:, PARTS * width :]), axis=1)
    place = maxima.shape[1] - k
    return maxima.max(axis=1), np.partition(maxima, place, axis=1)[:, place]


class TopCandidates:
    """Candidates (rows, k) in an order in which the first of equals is the lowest.

    Raises BackendError where the model's logits are NaN or infinite.
    """

    def __init__(self, candidates: Candidates, *, filtered: bool = True) -> None:
        self.ids: NDArray[np.int64] = candidates.ids
        self.logits: Logits = candidates.values
        # Filters make equal what was not, so then no order but that of the ids will do.
        if filtered or not candidates.first_of_equals:
            order = self.ids.argsort(axis=1)
            rows = self.rows
            self.ids, self.logits = self.ids[rows, order], self.logits[rows, order]
        self.log_sum_exp: NDArray[np.float64] = checked(candidates.log_sum_exp)
        self.vocab = candidates.vocab

    @property
    def rows(self) -> NDArray[np.int64]:
        """The number of each row, (rows, 1)."""
        return np.arange(len(self.ids))[:, None]


class ScoreBuffer:
    """Room for the scores of all tokens, in which those that are no candidates are `NEVER`."""

    def __init__(self) -> None:
        self._scores: Logits | None = None

    def filtered(
        self, history: History, filters: Sequence[Filter], candidates: TopCandidates, scores: Logits
    ) -> Logits:
        """The candidates' scores (rows, k) after filters which only lower scores."""
        if not filters:
            return scores
        if self._scores is None:
            self._scores = np.full((len(scores), candidates.vocab), NEVER, dtype=np.float32)
        places = candidates.rows, candidates.ids
        self._scores[places] = scores
        for filter_ in filters:
            filter_(history, self._scores)
        lowered: Logits = self._scores[places]
        self._scores[places] = NEVER
        return lowered


class ForbiddenTokens:
    """Which tokens filters forbid that do nothing else."""

    def __init__(self) -> None:
        self._marks: Logits | None = None

    def __call__(
        self, history: History, filters: Sequence[Filter], shape: tuple[int, ...]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Their rows and ids in scores of that shape, in the order of the rows."""
        if self._marks is None:
            self._marks = np.zeros(shape, dtype=np.float32)
        for filter_ in filters:
            filter_(history, self._marks)
        # A search among truth values is many times as fast as one among numbers.
        rows, ids = np.divmod(np.flatnonzero(self._marks.ravel() < 0), shape[1])
        self._marks[rows, ids] = 0.0
        return rows, ids
