"""Sequences of token ids: padded into one array, while they are decoded, and when they are done."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.backend import Lengths, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratedSequence:
    """One decoded sequence.

    `ids` are the generated tokens, without the prompt and with the end token where there is one
    (`finished`; else the limit of tokens ended it). `score` is the sum of log-probabilities; in
    beam search divided by length ** length_penalty.
    """

    ids: tuple[int, ...]
    score: float
    finished: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratedText(GeneratedSequence):
    """A decoded sequence with its text, without special tokens."""

    text: str


class History:
    """The tokens of every row so far, prompts included, aligned at their ends.

    `tokens` (rows, width) holds -1 left of a short prompt; `generated` counts tokens per row.
    """

    def __init__(self, prompts: list[NDArray[np.int64]], beams: int, max_new_tokens: int) -> None:
        self.start = max(map(len, prompts))
        self.limit = max_new_tokens
        self.generated = 0
        width = self.start + max_new_tokens
        self._tokens: Tokens = np.full((len(prompts) * beams, width), -1, dtype=np.int64)
        for i, prompt in enumerate(prompts):
            rows = slice(i * beams, (i + 1) * beams)
            self._tokens[rows, self.start - len(prompt) : self.start] = prompt

    @property
    def tokens(self) -> Tokens:
        """Everything so far, (rows, longest prompt + generated)."""
        return self._tokens[:, : self.start + self.generated]

    @property
    def new_tokens(self) -> Tokens:
        """What was generated, (rows, generated)."""
        return self._tokens[:, self.start : self.start + self.generated]

    def append(self, tokens: NDArray[np.int64], parents: NDArray[np.int64] | None = None) -> None:
        """Row i goes on from row `parents[i]` with `tokens[i]`."""
        if parents is not None:
            end = self.start + self.generated
            self._tokens[:, :end] = self._tokens[parents, :end]
        self._tokens[:, self.start + self.generated] = tokens
        self.generated += 1


def pad(sequences: Sequence[Sequence[int]]) -> tuple[Tokens, Lengths]:
    """Right-padded ids (rows, longest) and lengths (rows,); no graph looks at the padding."""
    lengths = np.array([len(ids) for ids in sequences], dtype=np.int64)
    tokens = np.zeros((len(sequences), int(lengths.max())), dtype=np.int64)
    for row, ids in enumerate(sequences):
        tokens[row, : len(ids)] = ids
    return tokens, lengths
