"""Calls of an open engine: the buffers that they read and write, and one step again and again.

Addresses and shapes are set where they change and nowhere else, since every call of the library
costs microseconds of a step. A step whose sizes and addresses come back is recorded as a CUDA graph
the second time, and replayed from then on.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import weakref
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, TypeAlias, TypeVar

from seq2edge.bundle.engine_info import EngineSizes
from seq2edge.bundle.manifest import TensorRecord
from seq2edge.errors import BackendError, EngineError
from seq2edge.runtime.backends.device import Device
from seq2edge.runtime.backends.engine import OpenEngine

GRAPHS = 16  # recorded steps that are kept, each with an execution context of its own
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

Binding: TypeAlias = "tuple[int, tuple[int, ...] | None]"  # address; the shape of an input
Bindings: TypeAlias = "Mapping[str, Binding]"

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


class EngineCall:
    """One execution context of a profile; only what changes is set anew."""

    def __init__(
        self,
        engine: OpenEngine,
        profile: str,
        device: Device,
        scratch: tuple[int, int],
        *,
        replayed: bool = False,
    ) -> None:
        self._engine, self._device = engine, device
        self._context = engine.context(replayed=replayed)
        if self._context is None:
            raise engine.failure("no execution context")
        index = engine.info.profiles.index(profile)
        if not self._context.set_optimization_profile_async(index, device.handle):
            raise engine.failure(f"profile {profile} is not taken")
        self._context.set_device_memory(*scratch)
        self._set: dict[str, Binding] = {}
        self._key: Hashable = None

    def run(self, key: Hashable, bindings: Callable[[], Bindings]) -> None:
        """Bind and enqueue. Raises EngineError where the engine does not take it."""
        self.prepare(key, bindings)
        if not self.enqueue():
            raise self._engine.failure("the device does not run it")

    def prepare(self, key: Hashable, bindings: Callable[[], Bindings]) -> None:
        """Bind every input and output; `key` tells whether anything is other than last time."""
        if key == self._key:
            return
        context, reshaped = self._context, False
        for name, (address, shape) in bindings().items():
            if self._set.get(name) == (address, shape):
                continue
            before = self._set.get(name, (0, None))[1]
            if shape is not None and shape != before:
                reshaped = True
                if not context.set_input_shape(name, shape):
                    raise self._engine.failure(f"does not take {name} of shape {shape}")
            if not context.set_tensor_address(name, address):
                raise self._engine.failure(f"does not take the address of {name}")
            self._set[name] = (address, shape)
        if reshaped and (missing := context.infer_shapes()):
            raise self._engine.failure(f"shapes are missing: {', '.join(missing)}")
        self._key = key

    def enqueue(self) -> bool:
        """Ask the device to run it; whether it was taken."""
        return bool(self._context.execute_async_v3(self._device.handle))


@dataclasses.dataclass
class _Recorded:
    """The step of one set of sizes and addresses; `graph` once it was recorded."""

    call: EngineCall
    graph: Any = None


class StepCalls:
    """The step again and again: run once, recorded the second time, then replayed.

    A recording holds addresses and shapes, and a context must not change under it: each has its
    own. Where nothing can be recorded every step is enqueued by one context.
    """

    def __init__(self, engine: OpenEngine, device: Device, scratch: tuple[int, int]) -> None:
        self._engine, self._scratch = engine, scratch
        self._device = device
        self._plain: EngineCall | None = None
        self._recorded: collections.OrderedDict[Hashable, _Recorded] = collections.OrderedDict()
        self.recording = not engine.builtin_graphs
        self.replays = 0

    def run(self, key: Hashable, bindings: Callable[[], Bindings]) -> None:
        """One step with these bindings; equal keys mean equal bindings."""
        if not self.recording:
            self._plain = self._plain or self._make()
            self._plain.run(key, bindings)
            return
        recorded = self._recorded.get(key)
        if recorded is None:
            self._evict()
            recorded = _Recorded(self._make())
            recorded.call.run(
                key, bindings
            )  # the first call of a shape settles the context's state
            self._recorded[key] = recorded
            return
        self._recorded.move_to_end(key)
        if recorded.graph is None:
            recorded.graph = self._device.capture(recorded.call.enqueue)
        if recorded.graph is None:
            self.recording, self._plain = False, recorded.call
            self._recorded.clear()  # their steps were waited for
            recorded.call.run(key, bindings)
            return
        self._device.launch(recorded.graph)
        self.replays += 1

    def _make(self) -> EngineCall:
        builtin = self._engine.builtin_graphs
        return EngineCall(self._engine, "step", self._device, self._scratch, replayed=builtin)

    def _evict(self) -> None:
        while len(self._recorded) >= GRAPHS:
            _, oldest = self._recorded.popitem(last=False)
            if oldest.graph is not None:
                self._device.discard(oldest.graph)
            else:
                self._device.wait()  # its context may still be running
