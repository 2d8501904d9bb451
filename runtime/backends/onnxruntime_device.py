"""Caches on a CUDA device that ONNX Runtime's decoder writes in place, its steps recorded.

A step is some two hundred small kernels, which cost more to ask for than to do: a step whose
buffers come back is recorded as a CUDA graph the second time and replayed from then on. So
everything that it touches lies where it lay before, on the device: ids and lengths are sent in one
copy, what tokens are chosen from is found there and comes back in another.

Everything goes through the one stream of the backend's device, ONNX Runtime's work too, and
through its lock.
"""

from __future__ import annotations

import collections
import dataclasses
import weakref
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle.engine_info import ALIGNMENT, LOG_SUM_EXP, TOP_IDS, TOP_VALUES, top_outputs
from seq2edge.bundle.manifest import TensorRecord
from seq2edge.errors import BackendError, CapacityError
from seq2edge.runtime.backend import Candidates, Lengths, Logits, Tokens
from seq2edge.runtime.backends.choice_graph import LOGITS, choice_graph
from seq2edge.runtime.backends.device import Device, Download, Upload
from seq2edge.runtime.backends.device_caches import CacheBlock, lay_out
from seq2edge.runtime.backends.engine_calls import GRAPHS, ITEM, Slots, shape_of, size_of
from seq2edge.runtime.backends.onnxruntime_buffers import Layout, Memory
from seq2edge.runtime.backends.onnxruntime_cache import run_error

TOP = 32  # logits that a step gives apart
CAPACITY_STEP = 64  # caches hold a multiple of so many tokens, so that sets of buffers come back
IDLE_SETS = 4  # sets of caches that are kept for the next that ask for such
REMEDY = "decode fewer rows or shorter texts at once, or use the cpu"
DEVICE = "cuda"
_NO_WAIT = ("disable_synchronize_execution_providers", "1")

Address: TypeAlias = int


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepBuffers:
    """What calls of up to so many rows and tokens read and write."""

    inputs: Upload
    top: Download
    logits: Address


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheSet:
    """Keys and values of so many rows and tokens."""

    rows: int
    capacity: int
    address: Address
    blocks: tuple[CacheBlock, ...]

    @property
    def size(self) -> int:
        """Its bytes."""
        return sum(each.block.size for each in self.blocks)

    def holds(self, rows: int, capacity: int) -> bool:
        """Whether it is for so many rows and tokens."""
        return (self.rows, self.capacity) == (rows, capacity)


class CacheSets:
    """Sets of caches, of which some that nobody uses are kept."""

    def __init__(self, device: Device, layout: Layout) -> None:
        self._device, self.layout = device, layout
        self._idle: list[CacheSet] = []  # the last that came back at the end

    def take(self, rows: int, capacity: int) -> CacheSet:
        """One without any number in it that is none: 0 times that would be no 0."""
        for place, each in enumerate(self._idle):
            if each.holds(rows, capacity):
                del self._idle[place]
                self._device.clear(each.address, each.size)
                return each
        while len(self._idle) > IDLE_SETS:
            self._device.free(self._idle.pop(0).address)
        blocks = lay_out(
            (name, (rows, heads, capacity, head_dim), np.dtype(kind).itemsize)
            for name, ((heads, head_dim), kind) in self.layout.items()
        )
        size = sum(each.block.size for each in blocks)
        address = self._device.allocate(size, zero=True)
        return CacheSet(rows=rows, capacity=capacity, address=address, blocks=tuple(blocks))

    def give_back(self, sets: list[CacheSet]) -> None:
        """Others may take them at once: what was asked of them before is done before."""
        self._idle.extend(sets)
        sets.clear()


class RecordedSteps:
    """Work by a key that names all its buffers: done once, recorded the second time, replayed."""

    def __init__(self, device: Device) -> None:
        self._device = device
        # None: done once. False: it cannot be recorded.
        self._graphs: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
        self.replays = 0

    def run(self, key: Hashable, work: Callable[[], None]) -> None:
        """Do the work, or what was recorded of it. Raises what the work raises."""
        graph = self._graphs.get(key)
        if graph is None and key in self._graphs:
            graph = self._graphs[key] = self._record(work)
        self._graphs.setdefault(key, None)
        self._graphs.move_to_end(key)
        if len(self._graphs) > GRAPHS:
            _, oldest = self._graphs.popitem(last=False)
            if oldest:
                self._device.discard(oldest)
        if not graph:
            work()
            return
        self._device.launch(graph)
        self.replays += 1

    def _record(self, work: Callable[[], None]) -> Any:
        def enqueue() -> bool:
            try:
                work()
            except BackendError:  # it asks for what cannot be recorded, memory say
                return False
            return True

        return self._device.capture(enqueue, alone=True) or False


class DeviceDecoder:
    """The decoder's session and the one that finds the largest logits, and buffers for both."""

    def __init__(
        self,
        ort: Any,
        device: Device,
        open_session: Callable[[bytes], Any],
        decoder: Any,
        layout: Layout,
        vocab: int,
    ) -> None:
        self.ort, self.device, self.decoder, self.vocab = ort, device, decoder, vocab
        self.top_k = min(TOP, vocab)
        self.top = top_outputs(self.top_k)
        self.choice = open_session(choice_graph(vocab, self.top_k))
        self.aligns = any(put.name == ALIGNMENT for put in decoder.get_outputs())
        self.sets = CacheSets(device, layout)
        self.steps = RecordedSteps(device)
        self._buffers: dict[tuple[int, int], Slots[StepBuffers]] = {}

    def buffers(self, owner: object, rows: int, tokens: int) -> StepBuffers:
        """For calls of up to so many rows and tokens, for as long as the owner lives."""
        size = rows, tokens
        slots = self._buffers.setdefault(size, Slots(lambda: self._make(*size)))
        return slots.lease(owner)

    def _make(self, rows: int, tokens: int) -> StepBuffers:
        sizes = {"cache_length": rows * ITEM, "new_length": rows * ITEM, "input_ids": tokens * ITEM}
        logits = TensorRecord(name=LOGITS, dtype="float32", shape=("rows", self.vocab))
        return StepBuffers(
            inputs=Upload(self.device, sizes),
            top=Download(self.device, {t.name: size_of(t, {"rows": rows}) for t in self.top}),
            logits=self.device.allocate(size_of(logits, {"rows": rows})),
        )

    def run(self, session: Any, binding: Any) -> None:
        """Enqueue a call. Raises BackendError."""
        options = self.ort.RunOptions()
        options.add_run_config_entry(*_NO_WAIT)
        try:
            session.run_with_iobinding(binding, options)
        except Exception as error:  # its exceptions have no common base
            raise run_error(error, "decoder") from error


class DecoderCall:
    """Calls of the decoder, and of what finds the largest logits, with the same buffers."""

    def __init__(
        self,
        decoder: DeviceDecoder,
        buffers: StepBuffers,
        caches: CacheSet,
        source: Mapping[str, Any],
        new: int,
    ) -> None:
        self._decoder, self.buffers, self._caches = decoder, buffers, caches
        self._source, self._new = source, new
        self.alignment: Any = None
        if decoder.aligns and source:
            positions = next(iter(source.values())).shape()[2]
            shape, values = (caches.rows, positions), decoder.ort.OrtValue
            self.alignment = values.ortvalue_from_shape_and_type(shape, np.float32, DEVICE, 0)
        addresses = [value.data_ptr() for value in (*source.values(), self.alignment) if value]
        shapes = [tuple(value.shape()) for value in source.values()]
        where = (buffers.logits, caches.address, caches.rows, caches.capacity)
        self.key: Hashable = (*where, new, *addresses, *shapes)
        self._bindings: tuple[Any, Any] | None = None

    def run(self) -> None:
        """Enqueue both. Raises BackendError."""
        self._bindings = self._bindings or (self._bind_decoder(), self._bind_choice())
        decoder = self._decoder
        for session, binding in zip((decoder.decoder, decoder.choice), self._bindings, strict=True):
            decoder.run(session, binding)

    def _bind_decoder(self) -> Any:
        decoder, buffers, caches = self._decoder, self.buffers, self._caches
        binding, rows = decoder.decoder.io_binding(), caches.rows
        shapes = {"input_ids": (rows, self._new), "new_length": (rows,), "cache_length": (rows,)}
        for name, shape in shapes.items():
            place = buffers.inputs.address(name)
            binding.bind_input(name, DEVICE, 0, np.int64, shape, place)
        for name, value in self._source.items():
            binding.bind_ortvalue_input(name, value)
        for each in caches.blocks:
            for name, place in each.places(caches.address).items():
                (heads, head_dim), kind = decoder.sets.layout[name]
                where = (DEVICE, 0, kind, (rows, heads, caches.capacity, head_dim), place)
                binding.bind_input(f"past_{name}", *where)
                binding.bind_output(f"present_{name}", *where)
        self._bind_logits(binding.bind_output)
        if self.alignment is not None:
            binding.bind_ortvalue_output(ALIGNMENT, self.alignment)
        return binding

    def _bind_choice(self) -> Any:
        binding, rows = self._decoder.choice.io_binding(), self._caches.rows
        self._bind_logits(binding.bind_input)
        for tensor in self._decoder.top:
            shape, place = shape_of(tensor, {"rows": rows}), self.buffers.top.address(tensor.name)
            kind = np.dtype(tensor.dtype).type
            binding.bind_output(tensor.name, DEVICE, 0, kind, shape, place)
        return binding

    def _bind_logits(self, bind: Callable[..., None]) -> None:
        shape = (self._caches.rows, self._decoder.vocab)
        bind(LOGITS, DEVICE, 0, np.float32, shape, self.buffers.logits)


class DeviceCache:
    """Keys and values of some rows on the device; to reorder rows they go into another set."""

    def __init__(
        self, decoder: DeviceDecoder, memory: Memory | None, rows: int, capacity: int | None
    ) -> None:
        self._decoder, self._limit = decoder, capacity
        self.length: Lengths = np.zeros(rows, dtype=np.int64)
        self.alignment: NDArray[np.float32]  # see AligningCache
        self._calls = 0
        self._buffers: dict[tuple[int, int], StepBuffers] = {}
        self._known: dict[tuple[Address, int], DecoderCall] = {}  # by caches and new tokens
        self._source: dict[str, Any] = {}  # what the decoder reads of the encoder, on the device
        with decoder.device.lock:
            self._sets = [decoder.sets.take(rows, _rounded(capacity or CAPACITY_STEP))]
            weakref.finalize(self, decoder.sets.give_back, self._sets)
            if memory is not None:
                values = decoder.ort.OrtValue
                lengths = values.ortvalue_from_numpy(memory.source_length, DEVICE, 0)
                self._source = {**memory.tensors, "source_length": lengths}

    def reserve(self, needed: int) -> None:
        """Make room for `needed` tokens a row, or refuse."""
        if self._limit is not None and needed > self._limit:
            raise CapacityError(
                f"capacity: {needed} tokens do not fit the {self._limit} that were set; "
                "set a larger capacity or none"
            )
        capacity = self._sets[0].capacity
        while capacity < needed:
            capacity *= 2
        if capacity > self._sets[0].capacity:
            self._move(np.arange(len(self.length)), capacity)

    def reorder(self, rows: NDArray[np.int64]) -> None:
        """See Cache."""
        if not np.array_equal(rows, np.arange(len(self.length))):
            self._move(rows, self._sets[0].capacity)

    def _move(self, rows: NDArray[np.int64], capacity: int) -> None:
        """Row i of another set of buffers takes over what row `rows[i]` holds."""
        decoder, before = self._decoder, self._sets[0]
        longest, alike = int(self.length.max(initial=0)), before.holds(len(rows), capacity)
        with decoder.device.lock:
            if alike and len(self._sets) > 1:
                after = self._sets.pop()
            else:
                after = decoder.sets.take(len(rows), capacity)
            for old, new in zip(before.blocks, after.blocks, strict=True):
                ends = after.address + new.start, before.address + old.start
                width = longest * new.line
                decoder.device.copy_rows(*ends, new.block, rows, width, source_block=old.block)
            if not alike:
                self._known = {}
                decoder.sets.give_back(self._sets)
            self._sets.insert(0, after)
        self.length = self.length[rows]

    def rewind(self, length: int) -> None:
        """See Cache. What comes next is written over the rest."""
        self.length[:] = length

    def read(self) -> dict[str, NDArray[Any]]:
        """See SavedCache."""
        device, used = self._decoder.device, int(self.length[0])
        with device.lock:
            return {
                name: device.read(place, row.nbytes).view(row.dtype).reshape(row.shape)[:, :used]
                for name, (place, row) in self._first_row().items()
            }

    def write(self, values: Mapping[str, NDArray[Any]], length: int) -> None:
        """See SavedCache."""
        self.reserve(length)
        places = self._first_row()
        if sorted(values) != sorted(places):
            raise ValueError("it holds keys and values of other layers")
        for name, (_, row) in places.items():
            value, part = values[name], row[:, :length]
            if value.shape != part.shape or value.dtype != part.dtype:
                raise ValueError(f"{name} is {value.dtype} {value.shape}, not {part.shape}")
            part[:] = value
        with self._decoder.device.lock:
            for place, row in places.values():
                self._decoder.device.write(place, row)
        self.length[:] = length

    def _first_row(self) -> dict[str, tuple[Address, NDArray[Any]]]:
        """Where the first row of each tensor lies, and zeros (heads, capacity, head_dim) alike."""
        current, rows = self._sets[0], {}
        for each in current.blocks:
            for name, place in each.places(current.address).items():
                (heads, head_dim), kind = self._decoder.sets.layout[name]
                rows[name] = place, np.zeros((heads, current.capacity, head_dim), dtype=kind)
        return rows

    def step(self, tokens: Tokens, new_length: Lengths) -> Candidates:
        """One call of the graph; see Backend."""
        rows, new = tokens.shape
        self.reserve(int(self.length.max()) + new)
        decoder = self._decoder
        with decoder.device.lock:
            call = self._call(rows, new)
            call.buffers.inputs.send(
                cache_length=self.length, new_length=new_length, input_ids=tokens
            )
            if new == 1:
                decoder.steps.run(call.key, call.run)
            else:
                call.run()
            call.buffers.top.fetch()
            decoder.device.wait()
            self.length += new_length
            self._calls += 1
            if call.alignment is not None:
                self.alignment = call.alignment.numpy()
            return self._candidates(call.buffers, rows)

    def _call(self, rows: int, new: int) -> DecoderCall:
        caches, size = self._sets[0], (_power_of_two(rows), _power_of_two(rows * new))
        known = self._known.get((caches.address, new))
        if known is None:
            if size not in self._buffers:
                self._buffers[size] = self._decoder.buffers(self, *size)
            known = DecoderCall(self._decoder, self._buffers[size], caches, self._source, new)
            self._known[caches.address, new] = known
        return known

    def _candidates(self, buffers: StepBuffers, rows: int) -> Candidates:
        """The largest logits of the last call; all stay on the device as long as it is the last."""
        decoder, call, shape = self._decoder, self._calls, (rows, self._decoder.top_k)

        def fetch() -> Logits:
            with decoder.device.lock:
                if self._calls != call:
                    raise BackendError("logits: those of a step that is over; ask before the next")
                size = rows * decoder.vocab * np.dtype(np.float32).itemsize
                logits: Logits = decoder.device.read(buffers.logits, size).view(np.float32)
                return logits.reshape(rows, decoder.vocab)

        return Candidates(
            values=buffers.top.read(TOP_VALUES, np.float32, shape),
            ids=buffers.top.read(TOP_IDS, np.int64, shape),
            log_sum_exp=buffers.top.read(LOG_SUM_EXP, np.float32, (rows,)).astype(np.float64),
            vocab=decoder.vocab,
            logits=fetch,
        )


def _power_of_two(size: int) -> int:
    """The least that is no smaller: buffers of few sizes."""
    return 1 << (size - 1).bit_length()


def _rounded(capacity: int) -> int:
    return -(-capacity // CAPACITY_STEP) * CAPACITY_STEP
