"""The encoder's engine: sources in; keys and values that stay on the device, or pooled scores."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle.engine_info import SEGMENTS
from seq2edge.errors import BackendError
from seq2edge.runtime.backend import Features, Lengths, Tokens
from seq2edge.runtime.backends.device import Bytes, Device, Upload
from seq2edge.runtime.backends.engine import OpenEngine, largest
from seq2edge.runtime.backends.engine_calls import (
    Bindings,
    EngineCall,
    Slots,
    check_batch,
    read_float32,
    shape_of,
    size_of,
)
from seq2edge.runtime.sequences import rounded_up

# Sources are padded to a multiple of this: few shapes, so that recorded steps serve many lengths.
SOURCE_STEP = 16
SOURCES = ("input_ids", "features", "pixels")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemorySlot:
    """Buffers of one batch at its largest: what the encoder reads, and what it writes."""

    inputs: Upload
    outputs: dict[str, int]


class EngineMemory:
    """Keys and values of a batch of sources on the device, one copy for all beams.

    The decoder finds them in `slot.outputs`, by name.
    """

    def __init__(self, slots: Slots[MemorySlot], batch: int, source: int) -> None:
        self.batch = batch
        self.source = source  # positions, padding included
        self.slot = slots.lease(self)
        self.source_length = self.slot.inputs.address("source_length")


class EngineEncoder:
    """Runs the engine for sources of any length that it was built for."""

    def __init__(self, engine: OpenEngine, device: Device, scratch: tuple[int, int]) -> None:
        self._engine, self._device = engine, device
        self._sizes = engine.info.sizes
        self._inputs = {tensor.name: tensor for tensor in engine.info.inputs}
        self._outputs = {tensor.name: tensor for tensor in engine.info.outputs}
        self._source = next(name for name in SOURCES if name in self._inputs)
        self._slots = Slots(self._make_slot)
        self._pooled: Bytes | None = None
        for name in ("logits", "embedding"):
            if name in self._outputs:
                read_float32(engine.subject, self._outputs[name])
        self._call = EngineCall(engine, "encoder", device, scratch)

    def _make_slot(self) -> MemorySlot:
        most = largest(self._sizes)
        sizes = {name: size_of(tensor, most) for name, tensor in self._inputs.items()}
        outputs = {
            name: self._device.allocate(size_of(tensor, most))
            for name, tensor in self._outputs.items()
        }
        return MemorySlot(inputs=Upload(self._device, sizes), outputs=outputs)

    def encode(self, source: Tokens | Features, source_length: Lengths) -> EngineMemory:
        """Enqueue the encoder; what it writes is read by steps that come after."""
        with self._device.lock:
            source = self._fitted(source)
            keys = self._outputs["cross_key_0"]
            sizes = {"batch": len(source), "source": source.shape[-1]}
            positions = shape_of(keys, sizes)[2]  # of their own, where features or pixels are given
            memory = EngineMemory(self._slots, len(source), positions)
            self._run(memory.slot, source, source_length)
            return memory

    def pool(
        self, source: Tokens, source_length: Lengths, token_types: Tokens | None = None
    ) -> NDArray[np.float32]:
        """Scores or embeddings of a batch, (batch, width); of each token (batch, source, width)."""
        with self._device.lock:
            tokens = self._fitted(source)
            owner = EngineMemory(self._slots, len(tokens), tokens.shape[-1])
            self._run(owner.slot, tokens, source_length, token_types)
            (tensor,) = self._outputs.values()
            if self._pooled is None:
                self._pooled = self._device.pinned(size_of(tensor, largest(self._sizes)))
            sizes = {"batch": len(tokens), "source": tokens.shape[-1]}
            read = self._pooled[: size_of(tensor, sizes)]
            self._device.fetch(read, owner.slot.outputs[tensor.name])
            self._device.wait()
            pooled = read.view(np.float32).reshape(shape_of(tensor, sizes))
            return pooled[:, : source.shape[1]].copy() if pooled.ndim > 2 else pooled.copy()

    def _fitted(self, source: Tokens | Features) -> Tokens | Features:
        """The source padded to a length that the engine takes; lengths tell what is padding."""
        check_batch(self._sizes, len(source))
        if self._source != "input_ids":
            return np.ascontiguousarray(source, dtype=np.float32)
        least, _, most = self._sizes.source
        length = source.shape[1]
        if length > most:
            raise BackendError(
                f"source: {length} tokens, the engine was built for up to {most}; "
                "shorten it, or build with a larger --source"
            )
        padded = max(least, min(most, rounded_up(length, SOURCE_STEP)))
        tokens = np.zeros((len(source), padded), dtype=np.int64)
        tokens[:, :length] = source
        return tokens

    def _run(
        self,
        slot: MemorySlot,
        source: Tokens | Features,
        source_length: Lengths,
        token_types: Tokens | None = None,
    ) -> None:
        feed = {self._source: source, "source_length": np.asarray(source_length, dtype=np.int64)}
        if SEGMENTS in self._inputs:
            types = np.zeros(source.shape, dtype=np.int64)
            if token_types is not None:
                types[:, : token_types.shape[1]] = token_types
            feed[SEGMENTS] = types
        elif token_types is not None:
            raise BackendError("token_types: the engine reads none; export and build again")
        slot.inputs.send(**feed)
        shapes = {name: values.shape for name, values in feed.items()}

        def bindings() -> Bindings:
            inputs = {name: (slot.inputs.address(name), shape) for name, shape in shapes.items()}
            return {**inputs, **{name: (place, None) for name, place in slot.outputs.items()}}

        self._call.run((slot.inputs.address(self._source), source.shape), bindings)
