"""Log-probabilities of generated tokens, and of the likeliest others at their places.

They are the model's own: of all tokens together, before filters, temperature and what a draw leaves
out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.backend import Answer, Candidates, Logits, all_logits
from seq2edge.runtime.candidates import LargestLogits
from seq2edge.runtime.sequences import TokenLogprob


class Logprobs:
    """Of the tokens that one answer's rows may go on with."""

    def __init__(self, top: int) -> None:
        """`top` of the likeliest tokens are told at each place."""
        self._top = top
        self._largest = LargestLogits()
        self._logits: Logits
        self._totals: NDArray[np.floating]
        self._others: list[list[tuple[int, float]]]

    def begin(self, answer: Answer) -> None:
        """Take the logits of the rows from which the next tokens are chosen."""
        self._logits = all_logits(answer)
        count = min(self._top, self._logits.shape[1])
        if not isinstance(answer, Candidates) or answer.ids.shape[1] < count:
            answer = self._largest(self._logits, max(1, count))
        self._totals = answer.log_sum_exp.astype(np.float64)
        order = np.argsort(-answer.values, axis=1, kind="stable")[:, :count]
        ids = np.take_along_axis(answer.ids, order, axis=1).tolist()
        values = np.take_along_axis(answer.values, order, axis=1) - self._totals[:, None]
        self._others = [
            list(zip(*pair, strict=True)) for pair in zip(ids, values.tolist(), strict=True)
        ]

    def now(self, row: int, token: int) -> TokenLogprob:
        """What this token would be behind a row."""
        logprob = float(self._logits[row, token]) - float(self._totals[row])
        return TokenLogprob(logprob=logprob, top=tuple(self._others[row]))
