"""The decoder's engine: prefill and step, and caches of fixed size on the device."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle.contract import PAST, PRESENT
from seq2edge.bundle.engine_info import LOG_SUM_EXP, TOP_IDS, TOP_VALUES, top_outputs
from seq2edge.bundle.manifest import TensorRecord
from seq2edge.errors import BackendError, CapacityError
from seq2edge.runtime.backend import Answer, Candidates, Lengths, Logits, Tokens, check_capacity
from seq2edge.runtime.backends.device import Bytes, Device, Download, Upload
from seq2edge.runtime.backends.device_caches import CacheBlock, Shape, lay_out
from seq2edge.runtime.backends.engine import OpenEngine, largest
from seq2edge.runtime.backends.engine_calls import (
    BYTES,
    ITEM,
    Binding,
    Bindings,
    EngineCall,
    Slots,
    StepCalls,
    check_batch,
    read_float32,
    shape_of,
    size_of,
)
from seq2edge.runtime.backends.engine_encoder import EngineMemory


@dataclasses.dataclass(kw_only=True)
class CacheSlot:
    """Buffers of one cache at its largest.

    `sets` are the addresses of all keys and values; the second, for reordered rows or for an engine
    that copies its cache, is made when it is first needed. `top` is what tokens are chosen from
    where the engine gives it.
    """

    inputs: Upload
    top: Download | None
    logits: int
    read: Bytes
    sets: list[int]


class EngineDecoder:
    """The engine's calls, and the layout of its caches."""

    def __init__(self, engine: OpenEngine, device: Device, scratch: tuple[int, int]) -> None:
        self.device = device
        self.sizes = engine.info.sizes
        self.in_place = engine.in_place
        self.inputs = {tensor.name: tensor for tensor in engine.info.inputs}
        outputs = {tensor.name: tensor for tensor in engine.info.outputs}
        self.logits = outputs["logits"]
        read_float32(engine.subject, self.logits)
        self.top = top_outputs(self.sizes.top_k)
        self.blocks = self._layout()
        self.slots = Slots(self._make_slot)
        self.prefill = EngineCall(engine, "prefill", device, scratch)
        self.steps = StepCalls(engine, device, scratch)

    def _layout(self) -> list[CacheBlock]:
        """How the caches lie at their largest."""
        return lay_out(
            (name.removeprefix(PAST), self._shape(past), BYTES[past.dtype])
            for name, past in self.inputs.items()
            if name.startswith(PAST)
        )

    def _shape(self, past: TensorRecord) -> Shape:
        rows, heads, capacity, head_dim = shape_of(past, largest(self.sizes))
        return rows, heads, capacity, head_dim

    def _make_slot(self) -> CacheSlot:
        rows = self.sizes.rows
        tokens = max(self.sizes.batch[2] * self.sizes.prompt[2], rows)
        sizes = {"cache_length": rows * ITEM, "new_length": rows * ITEM, "input_ids": tokens * ITEM}
        logits = size_of(self.logits, largest(self.sizes))
        top = {tensor.name: size_of(tensor, largest(self.sizes)) for tensor in self.top}
        return CacheSlot(
            inputs=Upload(self.device, sizes),
            top=Download(self.device, top) if top else None,
            logits=self.device.allocate(logits),
            read=self.device.pinned(logits),
            sets=[self.make_set()],
        )

    def make_set(self) -> int:
        """Memory for all keys and values. No place of it may ever be NaN: 0 times that is no 0."""
        return self.device.allocate(sum(each.block.size for each in self.blocks), zero=True)


class EngineCache:
    """Keys and values of some rows in a leased slot."""

    def __init__(
        self,
        decoder: EngineDecoder,
        memory: EngineMemory | None,
        rows: int,
        capacity: int | None,
    ) -> None:
        sizes = decoder.sizes
        if memory is None:
            check_batch(sizes, rows)
        if capacity is not None and capacity > sizes.capacity:
            raise CapacityError(
                f"capacity: {capacity} tokens asked for, the engine was built for "
                f"{sizes.capacity}; ask for less, or build with a larger --capacity"
            )
        self._decoder, self._memory, self._limit = decoder, memory, capacity
        self._check_rows(rows)
        self.length: Lengths = np.zeros(rows, dtype=np.int64)
        with decoder.device.lock:
            self._slot = decoder.slots.lease(self)
        self._current = 0
        self._calls = 0

    def reorder(self, rows: NDArray[np.int64]) -> None:
        """See Cache. The rows are gathered in the other set of buffers, which is the one then."""
        if np.array_equal(rows, np.arange(len(self.length))):
            return
        self._check_rows(len(rows))
        decoder, length = self._decoder, self.length[rows]
        with decoder.device.lock:
            target, source = self._other(), self._slot.sets[self._current]
            longest = int(length.max(initial=0))
            for each in decoder.blocks:
                ends = target + each.start, source + each.start
                decoder.device.copy_rows(*ends, each.block, rows, longest * each.line)
        self._current = 1 - self._current
        self.length = length

    def rewind(self, length: int) -> None:
        """See Cache. What comes next is written over the rest."""
        self.length[:] = length

    def step(self, tokens: Tokens, new_length: Lengths) -> Answer:
        """Append tokens, in as many pieces as the engine needs; of several, all logits."""
        columns = max(1, int(new_length.max()))
        self._reserve(int((self.length + np.maximum(new_length, 1)).max()))
        with self._decoder.device.lock:
            if self._width(columns) == columns:
                self._run(tokens[:, :columns], new_length, self.length)
                return self._candidates() if self._slot.top else self._logits()
            logits = np.zeros(shape_of(self._decoder.logits, {"rows": len(tokens)}), np.float32)
            first = 0
            while first < columns:
                width = self._width(columns - first)
                valid = np.clip(new_length - first, 0, width)
                piece, begin = tokens[:, first : first + width].copy(), self.length.copy()
                if width == 1:  # a row that has no more, and may be full, repeats its last token
                    ended = (new_length > 0) & (new_length <= first)
                    piece[ended, 0] = tokens[ended, new_length[ended] - 1]
                    begin[ended] -= 1
                self._run(piece, valid, begin)
                last = self._logits()
                ends = (first < new_length) & (new_length <= first + width)
                logits[ends] = last[ends]
                first += width
            return logits

    def _check_rows(self, rows: int) -> None:
        sizes, batch = self._decoder.sizes, self._memory.batch if self._memory else 1
        if not rows or rows % batch:
            raise BackendError(f"rows: {rows} are no multiple of a batch of {batch}")
        if rows > sizes.rows:
            raise BackendError(
                f"beams: {rows} rows, the engine was built for {sizes.batch[2]} inputs with "
                f"{sizes.beams} beams; build with a larger --beams or --batch"
            )

    def _reserve(self, needed: int) -> None:
        """Raise CapacityError where so many tokens do not fit a row."""
        check_capacity(needed, self._limit)
        if needed > self._decoder.sizes.capacity:
            raise CapacityError(
                f"capacity: {needed} tokens do not fit the {self._decoder.sizes.capacity} that the "
                "engine was built for; build with a larger --capacity"
            )

    def _width(self, columns: int) -> int:
        """How many of so many columns one call takes: one, or what the prefill profile allows.

        A call writes all its columns behind every row, also where few of them are valid.
        """
        sizes, rows = self._decoder.sizes, len(self.length)
        batch = self._memory.batch if self._memory else min(rows, sizes.batch[2])
        width = min(columns, sizes.prompt[2])
        room = sizes.capacity - int(self.length.max())
        fits = rows == batch >= sizes.batch[0] and max(width, sizes.prompt[0]) <= room
        return width if fits else 1

    def _run(self, tokens: Tokens, valid: Lengths, begin: Lengths) -> None:
        """One call of the engine, which writes from `begin` on; the tokens are known to fit.

        A row without a valid token is fed one all the same: the next call overwrites it.
        """
        decoder, slot = self._decoder, self._slot
        rows, new = tokens.shape
        if 1 < new < decoder.sizes.prompt[0]:
            new = decoder.sizes.prompt[0]
            tokens = np.pad(tokens, ((0, 0), (0, new - tokens.shape[1])))
        slot.inputs.send(cache_length=begin, new_length=np.maximum(valid, 1), input_ids=tokens)
        past = slot.sets[self._current]
        present = past if decoder.in_place else self._other()
        source = self._memory.source_length if self._memory else 0
        sizes = self._sizes(rows, new)
        call = decoder.steps if new == 1 else decoder.prefill
        call.run((past, source, *sizes.values()), lambda: self._bindings(sizes, past, present))
        self._calls += 1
        self.length += valid
        if not decoder.in_place:
            self._current = 1 - self._current

    def _logits(self) -> Logits:
        """All logits of the last call."""
        decoder, slot, sizes = self._decoder, self._slot, {"rows": len(self.length)}
        read = slot.read[: size_of(decoder.logits, sizes)]
        decoder.device.fetch(read, slot.logits)
        decoder.device.wait()
        return read.view(np.float32).reshape(shape_of(decoder.logits, sizes))

    def _candidates(self) -> Candidates:
        """The largest of them; all stay on the device, and are fetched while they are there."""
        device, top, call = self._decoder.device, self._slot.top, self._calls
        assert top is not None
        rows, k = len(self.length), self._decoder.sizes.top_k
        top.fetch()
        device.wait()

        def fetch() -> Logits:
            with device.lock:
                if self._calls != call or len(self.length) != rows:
                    raise BackendError("logits: those of a step that is over; ask before the next")
                return self._logits()

        return Candidates(
            values=top.read(TOP_VALUES, np.float32, (rows, k)),
            ids=top.read(TOP_IDS, np.int64, (rows, k)),
            log_sum_exp=top.read(LOG_SUM_EXP, np.float32, (rows,)).astype(np.float64),
            vocab=shape_of(self._decoder.logits, {"rows": rows})[1],
            logits=fetch,
        )

    def _sizes(self, rows: int, new: int) -> dict[str, int]:
        sizes = {"rows": rows, "new": new, "capacity": self._decoder.sizes.capacity}
        if self._memory is not None:
            sizes |= {"batch": self._memory.batch, "source": self._memory.source}
        return sizes

    def _other(self) -> int:
        """The address of the set that is not the current one."""
        if len(self._slot.sets) == 1:
            self._slot.sets.append(self._decoder.make_set())
        return self._slot.sets[1 - self._current]

    def _bindings(self, sizes: dict[str, int], past: int, present: int) -> Bindings:
        """Addresses of everything, and shapes of the inputs."""
        decoder, slot = self._decoder, self._slot
        places: dict[str, int] = {}
        if self._memory is not None:
            places = {**self._memory.slot.outputs, "source_length": self._memory.source_length}
        for name in ("input_ids", "new_length", "cache_length"):
            places[name] = slot.inputs.address(name)
        bindings: dict[str, Binding] = {"logits": (slot.logits, None)}
        if slot.top is not None:
            bindings |= {
                tensor.name: (slot.top.address(tensor.name), None) for tensor in decoder.top
            }
        for each in decoder.blocks:
            places |= {PAST + name: place for name, place in each.places(past).items()}
            for name, place in each.places(present).items():
                bindings[PRESENT + name] = (place, None)
        for name, tensor in decoder.inputs.items():
            bindings[name] = (places[name], shape_of(tensor, sizes))
        return bindings
