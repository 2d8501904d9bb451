"""Log-probabilities of generated tokens, and of the likeliest others at their places.

They are the model's own: of all tokens together, before filters, temperature and what a draw leaves
out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.backend import Answer, Candidates, Logits, all_logits
from seq2edge.runtime.candidates import LargestLogits
from seq2edge.runtime.sequences import TokenLogprob

Tail: TypeAlias = "tuple[Tail, TokenLogprob] | None"  # a row's tokens, the last one first


class Logprobs:
    """Of the tokens of a request's rows; rows that go on from one share what came before."""

    def __init__(self, rows: int, top: int) -> None:
        """`top` of the likeliest tokens are told at each place."""
        self._tails: list[Tail] = [None] * rows
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

    def behind(self, row: int, token: int) -> tuple[TokenLogprob, ...]:
        """Those of a row's tokens, and of this one behind them."""
        return (*self.of(row), self.now(row, token))

    def go_on(self, parents: Sequence[int], tokens: Sequence[int]) -> None:
        """Row i is row `parents[i]` with `tokens[i]` behind it from now on."""
        self._tails = [
            (self._tails[parent], self.now(parent, token))
            for parent, token in zip(parents, tokens, strict=True)
        ]

    def of(self, row: int, length: int | None = None) -> tuple[TokenLogprob, ...]:
        """Those of a row's tokens, of the first `length` of them."""
        entries: list[TokenLogprob] = []
        tail = self._tails[row]
        while tail is not None:
            tail, entry = tail
            entries.append(entry)
        return tuple(entries[::-1][:length])
