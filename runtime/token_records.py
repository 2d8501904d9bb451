"""What results tell of each token beside its id: log-probabilities, and what it attends to.

Rows that go on from one row share what came before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import OptionError
from seq2edge.runtime.backend import Answer, Candidates
from seq2edge.runtime.logprobs import Logprobs
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.sequences import TokenLogprob


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TokenRecord:
    """A token's log-probability and its weights (source,), None where they are not asked for."""

    logprob: TokenLogprob | None
    weights: NDArray[np.float32] | None


Tail: TypeAlias = "tuple[Tail, TokenRecord] | None"  # a row's tokens, the last one first


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SequenceRecords:
    """What is told of a sequence's tokens; see `GeneratedSequence`."""

    logprobs: tuple[TokenLogprob, ...] | None = None
    alignment: NDArray[np.float32] | None = None


class TokenRecords:
    """Of the tokens of a request's rows, as far as its options ask for them."""

    def __init__(self, rows: int, options: DecodeOptions) -> None:
        top = options.logprobs
        self._logprobs = None if top is None else Logprobs(top)
        self._aligns = options.alignments
        self._asked = self._aligns or self._logprobs is not None
        self._tails: list[Tail] = [None] * rows
        self._weights: NDArray[np.float32]

    def begin(self, answer: Answer) -> None:
        """Take what the rows are answered from which the next tokens are chosen.

        Raises OptionError where alignments are asked of a backend that gives none.
        """
        if self._logprobs is not None:
            self._logprobs.begin(answer)
        if self._aligns:
            if not isinstance(answer, Candidates) or answer.alignment is None:
                raise OptionError("alignments: this backend gives none; leave them out")
            self._weights = answer.alignment.copy()  # the next step may write over it

    def go_on(self, parents: Sequence[int], tokens: Sequence[int]) -> None:
        """Row i is row `parents[i]` with `tokens[i]` behind it from now on."""
        if self._asked:
            self._tails = [
                (self._tails[parent], self._now(parent, token))
                for parent, token in zip(parents, tokens, strict=True)
            ]

    def of(self, row: int, length: int | None = None) -> SequenceRecords:
        """Those of a row's tokens, of the first `length` of them."""
        return self._records(self._tails[row], length)

    def behind(self, row: int, token: int) -> SequenceRecords:
        """Those of a row's tokens, and of this one behind them."""
        return self._records((self._tails[row], self._now(row, token)) if self._asked else None)

    def _now(self, row: int, token: int) -> TokenRecord:
        """What this token would be behind a row."""
        return TokenRecord(
            logprob=None if self._logprobs is None else self._logprobs.now(row, token),
            weights=self._weights[row] if self._aligns else None,
        )

    def _records(self, tail: Tail, length: int | None = None) -> SequenceRecords:
        entries: list[TokenRecord] = []
        while tail is not None:
            tail, entry = tail
            entries.append(entry)
        entries = entries[::-1][:length]
        logprobs, alignment = None, None
        if self._logprobs is not None:
            logprobs = tuple(e.logprob for e in entries if e.logprob is not None)
        if self._aligns:
            weights = [e.weights for e in entries if e.weights is not None]
            alignment = np.stack(weights) if weights else np.empty((0, 0), dtype=np.float32)
        return SequenceRecords(logprobs=logprobs, alignment=alignment)
