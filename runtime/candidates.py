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


class TopCandidates:
    """Candidates (rows, k) by their ids, so that the first of equals is the lowest.

    Raises BackendError where the model's logits are NaN or infinite.
    """

    def __init__(self, candidates: Candidates) -> None:
        order = np.argsort(candidates.ids, axis=1)
        self.ids: NDArray[np.int64] = np.take_along_axis(candidates.ids, order, axis=1)
        self.logits: Logits = np.take_along_axis(candidates.values, order, axis=1)
        self.log_sum_exp = checked(candidates.log_sum_exp)
        self.vocab = candidates.vocab


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
        np.put_along_axis(self._scores, candidates.ids, scores, axis=1)
        for filter_ in filters:
            filter_(history, self._scores)
        lowered: Logits = np.take_along_axis(self._scores, candidates.ids, axis=1)
        np.put_along_axis(self._scores, candidates.ids, NEVER, axis=1)
        return lowered
