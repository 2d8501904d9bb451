"""Caches that ONNX Runtime reads and writes in place on the CPU, and encoder memories beside them.

All caches of one size lie in one array, so that rows come, go and change places with a few copies:
of beams, what they do not have in common.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle.contract import PAST, PRESENT, present_of
from seq2edge.runtime.backend import Lengths
from seq2edge.runtime.backends.device_caches import Layout
from seq2edge.runtime.sequences import rounded_up

Cached: TypeAlias = NDArray[Any]  # keys or values of a cache, of one of the types below
CACHE_TYPES: dict[str, type[Any]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
}
SOURCE_STEP = 16  # an encoder memory that sources join is as long as a multiple of this


class HostCaches:
    """What some rows hold, in an array (tensors, rows, heads, capacity, head_dim) of each kind."""

    def __init__(self, layout: Layout, rows: int, capacity: int) -> None:
        self.rows = rows
        self._names: list[list[str]] = []  # of the tensors of each array
        self._arrays: list[Cached] = []
        for (heads, size), kind in dict.fromkeys(layout.values()):
            names = [name for name, its in layout.items() if its == ((heads, size), kind)]
            # Zeros: what no row has written yet is multiplied by zero, which no NaN would be.
            array = np.zeros((len(names), rows, heads, capacity, size), dtype=kind)
            self._names.append(names)
            self._arrays.append(array)

    def bind(self, binding: Any) -> None:
        """Bind every tensor as an input and as the output that is written in its place."""
        for name, tensor in self.tensors().items():
            place, kind = tensor.ctypes.data, tensor.dtype.type
            shape = (self.rows, *tensor.shape[1:])
            binding.bind_input(PAST + name, "cpu", 0, kind, shape, place)
            binding.bind_output(PRESENT + name, "cpu", 0, kind, shape, place)

    def tensors(self) -> dict[str, Cached]:
        """Every tensor (rows, heads, capacity, head_dim) by name."""
        pairs = zip(self._names, self._arrays, strict=True)
        return {n: t for names, array in pairs for n, t in zip(names, array, strict=True)}

    def move(self, rows: list[int], first: list[int], used: int) -> None:
        """Row i takes over what row `rows[i]` holds, from token `first[i]` up to `used`."""
        for array in self._arrays:
            copies = [
                (row, begin, array[:, old, :, begin:used].copy())
                for row, (old, begin) in enumerate(zip(rows, first, strict=True))
                if row != old
            ]
            for row, begin, copy in copies:
                array[:, row, :, begin:used] = copy
        self.rows = len(rows)

    def resize(self, rows: NDArray[np.int64], capacity: int, used: int) -> None:
        """Make room for so many tokens; row i holds what row `rows[i]` held, more rows nothing."""
        for i, before in enumerate(self._arrays):
            tensors, room, heads, _, head_dim = before.shape
            shape = (tensors, max(room, len(rows)), heads, capacity, head_dim)
            self._arrays[i] = np.zeros(shape, dtype=before.dtype)
            for row, old in enumerate(rows.tolist()):
                self._arrays[i][:, row, :, :used] = before[:, old, :, :used]
        self.rows = len(rows)

    def append(self, other: HostCaches, used: int) -> None:
        """Take over `used` tokens of the other's rows behind these."""
        rows = self.rows + other.rows
        for i, before in enumerate(self._arrays):
            room = before.shape[1]
            if rows > room:
                shape = (len(before), max(rows, 2 * room), *before.shape[2:])
                self._arrays[i] = np.zeros(shape, dtype=before.dtype)
                self._arrays[i][:, : self.rows] = before[:, : self.rows]
            taken = other._arrays[i][:, : other.rows, :, :used]
            self._arrays[i][:, self.rows : rows, :, :used] = taken
        self.rows = rows

    def read(self, row: int, used: int) -> dict[str, Cached]:
        """What a row holds, (heads, used, head_dim), by name."""
        return {name: tensor[row, :, :used].copy() for name, tensor in self.tensors().items()}

    def write(self, values: Mapping[str, Cached], used: int) -> None:
        """Let the first row hold what another one's `read` gave. Raises ValueError."""
        fill_row({name: tensor[0] for name, tensor in self.tensors().items()}, values, used)


class Memory:
    """Cross-attention keys and values (inputs, heads, source, head_dim), one copy for all beams.

    As the encoder gave them, until inputs come or go: then in arrays of their own. Those in 8 bits
    are caches to the graph, which gives them out as well and writes nothing.
    """

    def __init__(self, values: dict[str, Any], source_length: Lengths) -> None:
        self._given = values
        self._own: dict[str, Cached] = {}
        self.source_length = source_length

    @classmethod
    def of_arrays(cls, arrays: dict[str, Cached], source_length: Lengths) -> Memory:
        """One that has arrays of its own already."""
        memory = cls({}, source_length)
        memory._own = arrays
        return memory

    @property
    def tensors(self) -> Mapping[str, Any]:
        """As the encoder gave them, on its device, until inputs come or go."""
        return self._given

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
            if CACHE_TYPES[value.data_type()] is np.int8:
                binding.bind_ortvalue_output(present_of(name), value)
        inputs = len(self.source_length)
        for name, array in self._own.items():
            place, kind = array.ctypes.data, array.dtype.type
            shape = (inputs, *array.shape[1:])
            binding.bind_input(name, "cpu", 0, kind, shape, place)
            if kind is np.int8:
                binding.bind_output(present_of(name), "cpu", 0, kind, shape, place)

    def repeated(self, inputs: NDArray[np.int64]) -> Memory:
        """Another one, whose input i is a copy of `inputs[i]`."""
        arrays = {name: array[inputs] for name, array in self._arrays().items()}
        return Memory.of_arrays(arrays, self.source_length[inputs])

    def keep(self, inputs: NDArray[np.int64]) -> None:
        """Input i is the old `inputs[i]`."""
        if self._given:
            self._own = {name: array[inputs] for name, array in self._arrays().items()}
            self._given = {}
        else:
            moved = np.flatnonzero(inputs != np.arange(len(inputs)))
            for array in self._own.values():
                array[moved] = array[inputs[moved]]
        self.source_length = self.source_length[inputs]

    def join(self, other: Memory) -> None:
        """The other's inputs come behind these, padded as far as the longest of all."""
        lengths = np.concatenate((self.source_length, other.source_length))
        source = rounded_up(int(lengths.max()), SOURCE_STEP)
        theirs, first = other._arrays(), len(self.source_length)
        for name, array in self._arrays().items():
            # Where the encoder gave it there is room for no more, so that it is not written to.
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
        self._given = {}
        self.source_length = lengths

    def _arrays(self) -> dict[str, Cached]:
        """Every tensor; those that the encoder gave are not written to."""
        return {name: host_view(value) for name, value in self._given.items()} or dict(self._own)


def fill_row(row: Mapping[str, Cached], values: Mapping[str, Cached], used: int) -> None:
    """Let each tensor (heads, capacity, head_dim) of a row begin with `used` saved tokens.

    Raises ValueError for those of other layers, sizes or types.
    """
    if sorted(values) != sorted(row):
        raise ValueError("it holds keys and values of other layers")
    for name, tensor in row.items():
        value, place = values[name], tensor[:, :used]
        if value.shape != place.shape or value.dtype != place.dtype:
            raise ValueError(f"{name} is {value.dtype} {value.shape}, not {place.shape}")
        place[:] = value


def host_view(value: Any) -> Cached:
    """The memory of a tensor on the host."""
    shape = tuple(value.shape())
    kind = np.ctypeslib.as_ctypes_type(CACHE_TYPES[value.data_type()])
    flat: Cached = np.ctypeslib.as_array((kind * math.prod(shape)).from_address(value.data_ptr()))
    return flat.reshape(shape)
