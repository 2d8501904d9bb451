"""Sizes and leases of the buffers that engines read and write."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from seq2edge.bundle.engine_info import EngineSizes
from seq2edge.bundle.manifest import TensorRecord
from seq2edge.errors import BackendError, EngineError

ITEM = 8  # bytes of a token or a length
BYTES: Mapping[str, int] = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}

Slot = TypeVar("Slot")


class Slots(Generic[Slot]):
    """Sets of buffers that are leased, and come back when who leased them is dropped.

    A slot can be used again at once: what was asked of it before is done before, in one stream.
    """

    def __init__(self, make: Callable[[], Slot]) -> None:
        self._make = make
        self._free: list[Slot] = []

    def lease(self, owner: Any) -> Slot:
        """A slot for as long as the owner lives."""
        slot = self._free.pop() if self._free else self._make()
        weakref.finalize(owner, self._free.append, slot)
        return slot


def shape_of(tensor: TensorRecord, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of a tensor where the graph contract's symbols have these sizes."""
    return tuple(sizes[axis] if isinstance(axis, str) else axis for axis in tensor.shape)


def size_of(tensor: TensorRecord, sizes: Mapping[str, int]) -> int:
    """Its bytes."""
    return math.prod(shape_of(tensor, sizes)) * BYTES[tensor.dtype]


def largest(sizes: EngineSizes) -> dict[str, int]:
    """The most of every symbol."""
    return {
        "batch": sizes.batch[2],
        "rows": sizes.rows,
        "source": sizes.source[2],
        "new": sizes.prompt[2],
        "capacity": sizes.capacity,
    }


def check_batch(sizes: EngineSizes, batch: int) -> None:
    """Raise BackendError for a batch that the engine was not built for."""
    least, _, most = sizes.batch
    if not least <= batch <= most:
        raise BackendError(
            f"batch: {batch} inputs, the engine was built for {least} to {most}; "
            "split it, or build with another --batch"
        )


def read_float32(subject: str, tensor: TensorRecord) -> None:
    """Raise EngineError where an output that the host reads is of another type."""
    if tensor.dtype != "float32":
        raise EngineError(
            f"{subject}: gives {tensor.name} as {tensor.dtype}, float32 is read; "
            "build it of a graph that seq2edge made"
        )
