"""The one seam between decoding and execution.

A backend runs graphs and owns the caches; the decode loop never learns where they live.
Axes: `batch` inputs, `rows` = batch * beams sequences being decoded, `new` tokens fed in one step.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Tokens: TypeAlias = NDArray[np.int64]  # (rows, new), right-padded
Lengths: TypeAlias = NDArray[np.int64]  # (rows,) valid tokens of each row
Features: TypeAlias = NDArray[np.float32]  # (batch, mels, frames)
Logits: TypeAlias = NDArray[np.float32]  # (rows, vocab)
Memory: TypeAlias = Any  # what `encode` returns and `start` takes; opaque to everyone else


class Cache(Protocol):
    """Keys and values of the tokens seen so far, for a fixed order of rows."""

    @property
    def length(self) -> Lengths:
        """Valid tokens per row, (rows,)."""

    def reorder(self, rows: NDArray[np.int64]) -> None:
        """Row i goes on from the old row `rows[i]`; `len(rows)` may differ from before.

        With an encoder memory of `batch` inputs, row r belongs to input r // (rows / batch).
        """


class Backend(Protocol):
    """Runs a bundle's graphs. A backend takes the memories and caches that it made itself."""

    name: str
    capacity: int | None  # tokens that a row's cache can hold at most; None: any number

    def encode(self, source: Tokens | Features, source_length: Lengths) -> Memory:
        """Cross-attention keys and values of a padded batch of sources, projected once."""

    def start(self, memory: Memory | None, rows: int, capacity: int | None) -> Cache:
        """An empty cache; None lets it grow, past a given `capacity` it raises CapacityError."""

    def step(self, tokens: Tokens, new_length: Lengths, cache: Any) -> Logits:
        """Append `new_length[r]` tokens to row r; logits after its last one, (rows, vocab)."""

    def pool(self, source: Tokens, source_length: Lengths) -> NDArray[np.float32]:
        """Logits (batch, labels) or embeddings (batch, width) of an encoder-only model."""
