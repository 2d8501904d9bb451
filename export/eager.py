"""The canonical Transformer as a backend: the reference that every graph is compared with.

In float32, or in float64 where the model is.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seq2edge.bundle.engine_info import SAMPLE_LENGTH
from seq2edge.errors import CapacityError
from seq2edge.model.layers import KeyValue
from seq2edge.model.transformer import Heads, StaticCache, Transformer
from seq2edge.runtime.backend import Features, Lengths, Logits, Tokens, encoder_feed
from seq2edge.runtime.backends.onnxruntime_cache import GROWTH


class EagerMemory:
    """Cross-attention keys and values, and how many of them are valid."""

    def __init__(self, source: list[KeyValue], length: Tensor) -> None:
        self.source = source
        self.length = length


class EagerCache:
    """The model's static cache behind the runtime's protocol."""

    def __init__(self, inner: StaticCache, *, fixed: bool) -> None:
        self.inner = inner
        self.fixed = fixed
        self.alignment: NDArray[np.float32] | None = None

    @property
    def length(self) -> Lengths:
        """See Cache."""
        return self.inner.length.numpy()

    def reorder(self, rows: NDArray[np.int64]) -> None:
        """See Cache."""
        index = torch.from_numpy(rows)
        self.inner.layers = [tuple(kept[index] for kept in layer) for layer in self.inner.layers]
        self.inner.length = self.inner.length[index]

    def rewind(self, length: int) -> None:
        """See Cache."""
        self.inner.length[:] = length

    def reserve(self, needed: int) -> None:
        """Grow to `needed` tokens, or refuse where the capacity was set."""
        capacity = self.inner.layers[0][0].shape[2]
        if needed <= capacity:
            return
        if self.fixed:
            raise CapacityError(f"capacity: {needed} tokens do not fit {capacity}")
        room = max(needed, 2 * capacity) - capacity
        self.inner.layers = [
            tuple(torch.nn.functional.pad(kept, (0, 0, 0, room)) for kept in layer)
            for layer in self.inner.layers
        ]


class EagerBackend:
    """Runs a `Transformer` in eager PyTorch on the CPU."""

    name = "eager"
    capacity: int | None = None
    rows: int | None = None
    running = False
    verifies = False

    def __init__(self, model: Transformer, alignment: Heads = ()) -> None:
        """With `alignment` its caches tell what these heads attend to."""
        self.model = model
        self.aligns = bool(alignment)
        self._alignment = alignment

    @torch.no_grad()
    def encode(self, source: Tokens | Features, source_length: Lengths) -> EagerMemory:
        """See Backend."""
        feed, positions = encoder_feed(self.model.dims, source, source_length)
        length = torch.from_numpy(positions)
        samples = feed.get(SAMPLE_LENGTH)
        encoded = self.model.encode(
            self._of_model(source),
            length,
            sample_length=None if samples is None else torch.from_numpy(samples),
        )
        return EagerMemory(self.model.project_source(encoded), length)

    def start(self, memory: EagerMemory | None, rows: int, capacity: int | None) -> EagerCache:
        """See Backend."""
        source, length = (memory.source, memory.length) if memory is not None else (None, None)
        inner = self.model.start(rows, capacity or GROWTH, source, length)
        return EagerCache(inner, fixed=capacity is not None)

    @torch.no_grad()
    def step(
        self, tokens: Tokens, new_length: Lengths, cache: EagerCache, positions: int = 1
    ) -> Logits:
        """See Backend."""
        assert positions == 1, "it answers the last token alone"
        cache.reserve(int(cache.length.max()) + tokens.shape[1])
        inner, new = cache.inner, torch.from_numpy(new_length)
        queries: list[Tensor] | None = [] if self.aligns else None
        logits: Logits = self.model.step(torch.from_numpy(tokens), new, inner, queries).numpy()
        if queries is not None and inner.source_length is not None:
            aligned = self.model.last_alignment(
                queries, inner.source, inner.source_length, new, self._alignment
            )
            cache.alignment = aligned.numpy()
        return logits

    def _of_model(self, source: Tokens | Features) -> Tensor:
        """Ids, or features in the model's own precision."""
        tensor = torch.from_numpy(source)
        return (
            tensor.to(self.model.embedding.weight.dtype) if tensor.is_floating_point() else tensor
        )

    @torch.no_grad()
    def pool(
        self, source: Tokens, source_length: Lengths, token_types: Tokens | None = None
    ) -> NDArray[np.float32]:
        """See Backend."""
        types = None if token_types is None else torch.from_numpy(token_types)
        pooled: NDArray[np.float32] = self.model.pool(
            torch.from_numpy(source), torch.from_numpy(source_length), types
        ).numpy()
        return pooled
