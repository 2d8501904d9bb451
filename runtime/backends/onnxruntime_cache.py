"""A cache that ONNX Runtime's decoder reads and writes: everything is bound once.

A binding holds addresses, so what changes from step to step is written into arrays of their own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle.engine_info import (
    ALIGNMENT,
    LAST_POSITIONS,
    LOG_SUM_EXP,
    TOP_IDS,
    TOP_VALUES,
    top_outputs,
)
from seq2edge.errors import BackendError
from seq2edge.runtime.backend import (
    Answer,
    Candidates,
    Lengths,
    Logits,
    Tokens,
    check_capacity,
    check_lengths,
)
from seq2edge.runtime.backends.onnxruntime_buffers import Memory

if TYPE_CHECKING:
    from seq2edge.runtime.backends.onnxruntime import OnnxRuntimeBackend

GROWTH = 64  # an unset capacity starts here and doubles

# Of each input, how many tokens two of its rows have in common, at least.
Common: TypeAlias = "list[list[list[int]]]"


class OnnxRuntimeCache:
    """Keys and values in buffers of fixed capacity; input and output share them."""

    def __init__(
        self,
        backend: OnnxRuntimeBackend,
        memory: Memory | None,
        rows: int,
        capacity: int | None,
    ) -> None:
        self._backend = backend
        self._memory = memory
        if memory is not None:
            self._repeat_memory(len(memory.source_length), rows)
        self._limit = capacity
        self._capacity = capacity or GROWTH
        self._caches = backend.make_caches(rows, self._capacity)
        self.length: Lengths = np.zeros(rows, dtype=np.int64)
        self._longest = 0  # of `length`
        self._common: Common = [[[0]] for _ in range(rows)]
        self._calls = 0
        self._binding: Any = None  # made anew where anything but numbers and shapes changes
        self._tokens: Tokens
        self._new_length: Lengths
        self._positions = np.ones(1, dtype=np.int64)
        self._room: dict[str, NDArray[Any]] = {}  # of what is answered, for as many lines as ever
        self._answer: dict[str, NDArray[Any]]
        self.alignment: NDArray[np.float32]  # see AligningCache
        self._bound_alignment: NDArray[np.float32]  # what the graph writes it to

    def reserve(self, needed: int) -> None:
        """Make room for `needed` tokens a row, or refuse."""
        if needed <= self._capacity:
            return
        check_capacity(needed, self._limit)
        self._capacity *= 2 ** math.ceil(math.log2(needed / self._capacity))
        self._resize(np.arange(len(self.length)))

    def reorder(self, rows: NDArray[np.int64]) -> None:
        """See Cache. Of rows that change places, what they do not have in common is copied."""
        inputs, before = len(self._common), len(self.length)
        parents = rows.tolist()
        if len(rows) == before:
            first = self._differ_from(parents, before // inputs)
            self._caches.move(parents, first, self._longest)
            self.length[:] = self.length[rows]
        else:
            self._resize(rows)
            self.length = self.length[rows]
            self._repeat_memory(before, len(rows))
        self._longest = max(self.length.tolist())
        self._common = self._shared(parents, before // inputs, len(rows) // inputs)

    def _repeat_memory(self, before: int, rows: int) -> None:
        """Where each row has a memory of its own, copy those of `before` rows for so many."""
        by_row = self._backend.memory_by_row
        if self._memory is not None and by_row and rows != before:
            self._memory = self._memory.repeated(np.arange(rows) * before // rows)

    def _differ_from(self, parents: list[int], width: int) -> list[int]:
        """The first token that each row does not have in common with the row it goes on from."""
        places = [
            (row // width, row % width, parent - row // width * width)
            for row, parent in enumerate(parents)
        ]
        return [
            self._common[input_][row][parent] if 0 <= parent < width else 0
            for input_, row, parent in places
        ]

    def _shared(self, parents: list[int], before: int, width: int) -> Common:
        """What rows have in common that go on from these: all, where that is one row."""
        lengths = self.length.tolist()
        common = []
        for i, known in enumerate(self._common):
            mine = [parent - i * before for parent in parents[i * width : (i + 1) * width]]
            alone = any(not 0 <= parent < before for parent in mine)  # from another input
            common.append(
                [
                    [
                        lengths[i * width + row] if a == b else 0 if alone else known[a][b]
                        for b in mine
                    ]
                    for row, a in enumerate(mine)
                ]
            )
        return common

    def set_length(self, length: Lengths) -> None:
        """So many tokens of each row (rows,) count from now on."""
        self.length[:] = length
        self._longest = int(length.max())

    def rewind(self, length: int) -> None:
        """See Cache. What comes next is written over the rest."""
        self.length[:] = self._longest = length
        self._common = [[[min(n, length) for n in row] for row in rows] for rows in self._common]

    def read(self, row: int = 0) -> dict[str, NDArray[Any]]:
        """See SavedCache."""
        return self._caches.read(row, int(self.length[row]))

    def write(self, values: Mapping[str, NDArray[Any]], length: int) -> None:
        """See SavedCache."""
        self.reserve(length)
        self._caches.write(values, length)
        self.length[:] = self._longest = length

    def keep(self, inputs: NDArray[np.int64]) -> None:
        """See RunningCache."""
        width = len(self._common[0])
        rows = (inputs[:, None] * width + np.arange(width)).reshape(-1)
        self._caches.move(rows.tolist(), [0] * len(rows), self._longest)
        self.length = self.length[rows]
        self._longest = int(self.length.max())
        self._common = [self._common[i] for i in inputs.tolist()]
        if self._memory is not None:
            self._memory.keep(rows if self._backend.memory_by_row else inputs)
        self._binding = None

    def join(self, other: OnnxRuntimeCache) -> None:
        """See RunningCache."""
        self.reserve(other._longest)
        self._caches.append(other._caches, other._longest)
        self.length = np.concatenate((self.length, other.length))
        self._longest = max(self._longest, other._longest)
        self._common += other._common
        if self._memory is not None and other._memory is not None:
            self._memory.join(other._memory)
        self._binding = None

    def step(self, tokens: Tokens, new_length: Lengths, positions: int) -> Answer:
        """One call of the graph; see Backend."""
        new = tokens.shape[1]
        check_lengths("new_length", new_length, new)
        if self._longest + new > self._capacity:
            self.reserve(self._longest + new)
        try:
            binding = self._bound(tokens.shape, positions)
            self._tokens[:] = tokens
            self._new_length[:] = new_length
            self._backend.sessions["decoder"].run_with_iobinding(binding)
        except Exception as error:  # its exceptions have no common base
            raise run_error(error, "decoder") from error
        self.length += new_length
        self._longest = self._longest + 1 if new == 1 else int(self.length.max())
        self._calls += 1
        if self._backend.aligns:
            self.alignment = self._bound_alignment
        return self._candidates() if TOP_VALUES in self._answer else self._answer["logits"]

    def _candidates(self) -> Candidates:
        """The largest logits of the last call; all of them as long as there is no other."""
        answer, calls = self._answer, self._calls

        def fetch() -> Logits:
            if self._calls != calls:
                raise BackendError("logits: those of a step that is over; ask before the next")
            return answer["logits"]

        return Candidates(
            values=answer[TOP_VALUES],
            ids=answer[TOP_IDS],
            log_sum_exp=answer[LOG_SUM_EXP],
            vocab=self._backend.vocab,
            logits=fetch,
            first_of_equals=True,  # as its TopK on the CPU gives them
        )

    def _resize(self, rows: NDArray[np.int64]) -> None:
        """Other rows or another capacity: row i holds what row `rows[i]` held."""
        with self._backend.allocating(len(rows), self._capacity):
            self._caches.resize(rows, self._capacity, self._longest)
        self._binding = None

    def _bound(self, shape: tuple[int, ...], positions: int) -> Any:
        """A binding of everything, for tokens of this shape and so many answers a row."""
        if self._binding is None:
            self._binding = self._backend.sessions["decoder"].io_binding()
            self._caches.bind(self._binding)
            if self._memory is not None:
                _bind_array(self._binding, "source_length", self._memory.source_length)
                self._memory.bind(self._binding)
        elif shape == self._tokens.shape and positions == self._positions[0]:
            return self._binding
        self._tokens = np.zeros(shape, dtype=np.int64)
        self._new_length = np.ones(shape[0], dtype=np.int64)
        self._positions[0] = positions
        _bind_array(self._binding, "input_ids", self._tokens)
        _bind_array(self._binding, "new_length", self._new_length)
        _bind_array(self._binding, "cache_length", self.length)
        if self._backend.verifies:
            _bind_array(self._binding, LAST_POSITIONS, self._positions)
        self._bind_answer(shape[0] * positions)
        return self._binding

    def _bind_answer(self, lines: int) -> None:
        """Bind the outputs that hold what is answered."""
        if not self._room or lines > len(self._room["logits"]):
            kinds = {"logits": ((self._backend.vocab,), np.float32)} | {
                tensor.name: (tuple(map(int, tensor.shape[1:])), np.dtype(tensor.dtype).type)
                for tensor in top_outputs(self._backend.top_k)
            }
            self._room = {
                name: np.empty((lines, *shape), dtype=kind) for name, (shape, kind) in kinds.items()
            }
        self._answer = {name: array[:lines] for name, array in self._room.items()}
        for name, array in self._answer.items():
            _bind_output(self._binding, name, array)
        if self._backend.aligns and self._memory is not None:
            shape = (lines, *self._backend.aligned_heads, self._memory.source)
            self._bound_alignment = np.empty(shape, dtype=np.float32)
            _bind_output(self._binding, ALIGNMENT, self._bound_alignment)


def run_error(error: Exception, role: str) -> BackendError:
    """What ONNX Runtime says of a call that failed: the node and the reason, in one line."""
    said = " ".join(str(error).split())
    match = re.search(r"running (\S+) node\. Name:'([^']*)' Status Message: (.*)", said)
    where = f"{role}, {match[1]} node {match[2]}: {match[3]}" if match else f"{role}: {said}"
    return BackendError(
        f"onnxruntime: {where}; `seq2edge verify` says whether this machine runs the bundle"
    )


def _bind_output(binding: Any, name: str, array: NDArray[Any]) -> None:
    """Let the graph write an output into the array."""
    binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def _bind_array(binding: Any, name: str, array: NDArray[np.int64]) -> None:
    """Bind an input to the array's memory: later changes of the array are seen on the CPU.

    Graphs on another device take a copy of it now.
    """
    binding.bind_input(name, "cpu", 0, np.int64, array.shape, array.ctypes.data)
