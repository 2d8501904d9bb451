"""Keys and values that ONNX Runtime reads and writes in place, and encoder memories beside them.

On the CPU all of them lie in one array, so that rows come, go and change places with a few copies:
of beams, what they do not have in common. Elsewhere they stay on the device, each a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.backend import Lengths

Cached: TypeAlias = NDArray[Any]  # keys or values of a cache, of one of the types below
CACHE_TYPES: dict[str, type[Any]] = {"tensor(float)": np.float32, "tensor(int8)": np.int8}
SOURCE_STEP = 16  # an encoder memory that sources join is as long as a multiple of this


class HostCaches:
    """Keys and values of some rows, in one array (tensors, rows, kv_heads, capacity, head_dim)."""

    def __init__(self, names: list[str], shape: tuple[int, int, int, int], kind: type[Any]) -> None:
        self._names = names
        self._kind = kind
        # Zeros: what no row has written yet is multiplied by zero, which no NaN would be.
        self._array: Cached = np.zeros((len(names), *shape), dtype=kind)
        self.rows = shape[0]

    def bind(self, binding: Any) -> None:
        """Bind every tensor as an input and as the output that is written in its place."""
        shape = (self.rows, *self._array.shape[2:])
        for name, tensor in zip(self._names, self._array, strict=True):
            place = tensor.ctypes.data
            binding.bind_input(f"past_{name}", "cpu", 0, self._kind, shape, place)
            binding.bind_output(f"present_{name}", "cpu", 0, self._kind, shape, place)

    def tensors(self) -> list[Cached]:
        """Every tensor, (rows, kv_heads, capacity, head_dim)."""
        return list(self._array)

    def move(self, rows: list[int], first: list[int], used: int) -> None:
        """Row i takes over what row `rows[i]` holds, from token `first[i]` up to `used`."""
        copies = [
            (row, begin, self._array[:, old, :, begin:used].copy())
            for row, (old, begin) in enumerate(zip(rows, first, strict=True))
            if row != old
        ]
        for row, begin, copy in copies:
            self._array[:, row, :, begin:used] = copy
        self.rows = len(rows)

    def resize(self, rows: NDArray[np.int64], capacity: int, used: int) -> None:
        """Make room for so many tokens; row i holds what row `rows[i]` held, more rows nothing."""
        tensors, room, heads, _, head_dim = self._array.shape
        before, room = self._array, max(room, len(rows))
        self._array = np.zeros((tensors, room, heads, capacity, head_dim), dtype=self._kind)
        for row, old in enumerate(rows.tolist()):
            self._array[:, row, :, :used] = before[:, old, :, :used]
        self.rows = len(rows)

    def append(self, other: HostCaches, used: int) -> None:
        """Take over `used` tokens of the other's rows behind these."""
        rows, room = self.rows + other.rows, self._array.shape[1]
        if rows > room:
            before = self._array
            shape = (len(before), max(rows, 2 * room), *before.shape[2:])
            self._array = np.zeros(shape, dtype=self._kind)
            self._array[:, : self.rows] = before[:, : self.rows]
        taken = other._array[:, : other.rows, :, :used]
        self._array[:, self.rows : rows, :, :used] = taken
        self.rows = rows

    def read(self, used: int) -> dict[str, Cached]:
        """What the first row holds, (kv_heads, used, head_dim), by name."""
        return dict(zip(self._names, self._array[:, 0, :, :used].copy(), strict=True))

    def write(self, values: Mapping[str, Cached], used: int) -> None:
        """Let the first row hold what another one's `read` gave. Raises ValueError."""
        if sorted(values) != sorted(self._names):
            raise ValueError("it holds keys and values of other layers")
        for name, tensor in zip(self._names, self._array, strict=True):
            value, place = values[name], tensor[0, :, :used]
            if value.shape != place.shape or value.dtype != place.dtype:
                raise ValueError(f"{name} is {value.dtype} {value.shape}, not {place.shape}")
            place[:] = value


class DeviceCaches:
    """Keys and values of some rows, each a tensor on a device; rows move by way of the host."""

    def __init__(
        self, ort: Any, device: str, names: list[str], shape: tuple[int, ...], kind: type[Any]
    ) -> None:
        self._ort, self._device, self._names, self._kind = ort, device, names, kind
        self._tensors = [self._made(np.zeros(shape, dtype=kind)) for _ in names]

    def _made(self, values: Cached) -> Any:
        tensor = self._ort.OrtValue.ortvalue_from_shape_and_type(
            values.shape, self._kind, self._device, 0
        )
        tensor.update_inplace(values)
        return tensor

    def bind(self, binding: Any) -> None:
        """Bind every tensor as an input and as the output that is written in its place."""
        for name, tensor in zip(self._names, self._tensors, strict=True):
            binding.bind_ortvalue_input(f"past_{name}", tensor)
            binding.bind_ortvalue_output(f"present_{name}", tensor)

    def move(self, rows: list[int], first: list[int], used: int) -> None:
        """Row i holds what row `rows[i]` held; all of it is copied."""
        del first, used
        for tensor in self._tensors:
            tensor.update_inplace(np.ascontiguousarray(tensor.numpy()[rows]))

    def resize(self, rows: NDArray[np.int64], capacity: int, used: int) -> None:
        """Make room for so many tokens; row i holds what row `rows[i]` held."""
        for i, tensor in enumerate(self._tensors):
            before = tensor.numpy()
            _, heads, _, head_dim = before.shape
            values = np.zeros((len(rows), heads, capacity, head_dim), dtype=self._kind)
            values[:, :, :used] = before[rows, :, :used]
            self._tensors[i] = self._made(values)

    def read(self, used: int) -> dict[str, Cached]:
        """What the first row holds, (kv_heads, used, head_dim), by name."""
        values = (tensor.numpy()[0, :, :used] for tensor in self._tensors)
        return dict(zip(self._names, values, strict=True))

    def write(self, values: Mapping[str, Cached], used: int) -> None:
        """Let the first row hold what another one's `read` gave. Raises ValueError."""
        host = HostCaches(self._names, self._tensors[0].shape(), self._kind)
        host.write(values, used)
        for tensor, array in zip(self._tensors, host.tensors(), strict=True):
            tensor.update_inplace(array)


class Memory:
    """Cross-attention keys and values (inputs, heads, source, head_dim), one copy for all beams.

    As the encoder gave them, until inputs come or go: then in arrays of their own.
    """

    def __init__(self, values: dict[str, Any], source_length: Lengths) -> None:
        self._given = values
        self._own: dict[str, Cached] = {}
        self.source_length = source_length

    @property
    def source(self) -> int:
        """Positions of the padded source."""
        for array in self._own.values():
            return int(array.shape[2])
        return int(next(iter(self._given.values())).shape()[2])

    def bind(self, binding: Any) -> None:
        """Bind every tensor."""
        for name, value in self._given.items():
            binding.bind_ortvalue_input(name, value)
        inputs = len(self.source_length)
        for name, array in self._own.items():
            shape = (inputs, *array.shape[1:])
            binding.bind_input(name, "cpu", 0, array.dtype.type, shape, array.ctypes.data)

    def keep(self, inputs: NDArray[np.int64]) -> None:
        """Input i is the old `inputs[i]`."""
        moved = np.flatnonzero(inputs != np.arange(len(inputs)))
        for array in self._arrays().values():
            array[moved] = array[inputs[moved]]
        self.source_length = self.source_length[inputs]

    def join(self, other: Memory) -> None:
        """The other's inputs come behind these, padded as far as the longest of all."""
        lengths = np.concatenate((self.source_length, other.source_length))
        source = -(-int(lengths.max()) // SOURCE_STEP) * SOURCE_STEP
        theirs, first = other._arrays(), len(self.source_length)
        for name, array in self._arrays().items():
            room, heads, before, head_dim = array.shape
            if len(lengths) > room or not source <= before <= 2 * source:
                width = min(before, source)
                shape = (max(len(lengths), 2 * room), heads, source, head_dim)
                self._own[name] = np.zeros(shape, dtype=array.dtype)
                self._own[name][:first, :, :width] = array[:first, :, :width]
            width = min(theirs[name].shape[2], self._own[name].shape[2])
            taken = theirs[name][: len(other.source_length), :, :width]
            self._own[name][first : len(lengths), :, :width] = taken
            self._own[name][first : len(lengths), :, width:] = 0
        self.source_length = lengths

    def _arrays(self) -> Mapping[str, Cached]:
        """Arrays of its own, copied from what the encoder gave when they are first needed."""
        if self._given:
            self._own = {name: host_view(value).copy() for name, value in self._given.items()}
            self._given = {}
        return dict(self._own)


def host_view(value: Any) -> Cached:
    """The memory of a tensor of floats on the host."""
    shape = tuple(value.shape())
    kind = np.ctypeslib.as_ctypes_type(np.float32)
    flat: Cached = np.ctypeslib.as_array((kind * math.prod(shape)).from_address(value.data_ptr()))
    return flat.reshape(shape)
