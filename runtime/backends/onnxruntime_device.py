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
import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle.contract import CROSS, PAST, PRESENT
from seq2edge.bundle.engine_info import ALIGNMENT, LOG_SUM_EXP, TOP_IDS, TOP_VALUES, top_outputs
from seq2edge.bundle.manifest import TensorRecord
from seq2edge.errors import BackendError
from seq2edge.runtime.backend import Candidates, Lengths, Logits, Tokens, check_capacity
from seq2edge.runtime.backends.choice_graph import LOGITS, choice_graph
from seq2edge.runtime.backends.device import Device, Download, Upload
from seq2edge.runtime.backends.device_caches import CacheSet, CacheSets, HeldRows, Layout
from seq2edge.runtime.backends.engine_calls import ITEM, Slots, shape_of, size_of
from seq2edge.runtime.backends.onnxruntime_buffers import CACHE_TYPES, SOURCE_STEP, Memory, fill_row
from seq2edge.runtime.backends.onnxruntime_cache import run_error
from seq2edge.runtime.sequences import rounded_up

TOP = 32  # logits that a step gives apart
CAPACITY_STEP = 64  # caches hold a multiple of so many tokens, so that sets of buffers come back
GRAPHS = 64  # recorded steps that are kept: a running batch has many sizes
CALLS = 8  # of a cache that are kept: two sets that beams change between, and some to spare
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
        self.ort, self.device, self.vocab = ort, device, vocab
        self.top_k = min(TOP, vocab)
        self.top = top_outputs(self.top_k)
        self.sessions = {
            "decoder": decoder,
            "choice": open_session(choice_graph(vocab, self.top_k)),
        }
        device.before_close(self.sessions.clear)
        aligned = [put.shape for put in decoder.get_outputs() if put.name == ALIGNMENT]
        self.aligns = bool(aligned)
        self.aligned_heads = tuple(map(int, aligned[0][1:-1])) if aligned else ()
        cross = [put for put in decoder.get_inputs() if put.name.startswith(CROSS)]
        self.caches = CacheSets(device, layout)
        self.sources = CacheSets(
            device,
            {put.name: ((put.shape[1], put.shape[3]), CACHE_TYPES[put.type]) for put in cross},
        )
        self.any_source = all(isinstance(put.shape[2], str) for put in cross)
        self.steps = RecordedSteps(device)
        self._buffers: dict[tuple[int, int], Slots[StepBuffers]] = {}

    def buffers(self, owner: object, rows: int, tokens: int) -> StepBuffers:
        """For calls of up to so many rows and tokens, for as long as the owner lives."""
        make = functools.partial(self._make, rows, tokens)
        slots = self._buffers.setdefault((rows, tokens), Slots(make))
        return slots.lease(owner)

    def _make(self, rows: int, tokens: int) -> StepBuffers:
        sizes = dict.fromkeys(("source_length", "cache_length", "new_length"), rows * ITEM)
        sizes["input_ids"] = tokens * ITEM
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
        source: CacheSet | None,
        new: int,
    ) -> None:
        self._decoder, self.buffers = decoder, buffers
        self._caches, self._source, self._new = caches, source, new
        self.alignment: Any = None
        if decoder.aligns and source is not None:
            shape = (caches.rows, *decoder.aligned_heads, source.capacity)
            values = decoder.ort.OrtValue
            self.alignment = values.ortvalue_from_shape_and_type(shape, np.float32, DEVICE, 0)
        sets = [(s.address, s.rows, s.capacity) for s in (caches, source) if s is not None]
        alignment = self.alignment.data_ptr() if self.alignment is not None else 0
        self.key: Hashable = (buffers.logits, new, alignment, *sets)
        self._bindings: dict[str, Any] = {}

    def is_of(self, caches: CacheSet, source: CacheSet | None) -> bool:
        """Whether it reads and writes these."""
        return (self._caches, self._source) == (caches, source)

    def run(self) -> None:
        """Enqueue both. Raises BackendError."""
        if not self._bindings:
            self._bindings = {"decoder": self._bind_decoder(), "choice": self._bind_choice()}
        decoder = self._decoder
        for role, binding in self._bindings.items():
            decoder.run(decoder.sessions[role], binding)

    def _bind_decoder(self) -> Any:
        decoder, buffers, rows = self._decoder, self.buffers, self._caches.rows
        binding = decoder.sessions["decoder"].io_binding()
        shapes = {"input_ids": (rows, self._new), "new_length": (rows,), "cache_length": (rows,)}
        if self._source is not None:
            shapes["source_length"] = (self._source.rows,)
            for each in decoder.sources.places(self._source):
                binding.bind_input(each.name, DEVICE, 0, each.kind, each.shape, each.address)
        for name, shape in shapes.items():
            place = buffers.inputs.address(name)
            binding.bind_input(name, DEVICE, 0, np.int64, shape, place)
        for each in decoder.caches.places(self._caches):
            where = (DEVICE, 0, each.kind, each.shape, each.address)
            binding.bind_input(PAST + each.name, *where)
            binding.bind_output(PRESENT + each.name, *where)
        self._bind_logits(binding.bind_output)
        if self.alignment is not None:
            binding.bind_ortvalue_output(ALIGNMENT, self.alignment)
        return binding

    def _bind_choice(self) -> Any:
        binding, rows = self._decoder.sessions["choice"].io_binding(), self._caches.rows
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
    """Keys and values of some rows on the device, and of the sources that they attend to."""

    def __init__(
        self, decoder: DeviceDecoder, memory: Memory | None, rows: int, capacity: int | None
    ) -> None:
        self._decoder, self._limit = decoder, capacity
        self.length: Lengths = np.zeros(rows, dtype=np.int64)
        self._inputs = rows  # a cache starts with one row for each
        self.alignment: NDArray[np.float32]  # see AligningCache
        self._calls = 0
        self._buffers: dict[tuple[int, int], StepBuffers] = {}
        self._known: dict[Hashable, DecoderCall] = {}  # by sets of caches and new tokens
        self._source: HeldRows | None = None
        self._source_length: Lengths = np.zeros(0, dtype=np.int64)
        with decoder.device.lock:
            self._caches = HeldRows(decoder.caches, rows, rounded_up(capacity or 1, CAPACITY_STEP))
            if memory is not None:
                self._source_length, tokens = memory.source_length, memory.source
                room = rounded_up(tokens, SOURCE_STEP if decoder.any_source else 1)
                self._source = HeldRows(decoder.sources, len(memory.source_length), room)
                self._source.fill({n: v.data_ptr() for n, v in memory.tensors.items()}, tokens)
                decoder.device.wait()  # then the encoder's memory may go

    @property
    def _longest(self) -> int:
        return int(self.length.max(initial=0))

    def reserve(self, needed: int) -> None:
        """Make room for `needed` tokens a row, or refuse."""
        check_capacity(needed, self._limit)
        capacity = before = self._caches.current.capacity
        while capacity < needed:
            capacity *= 2
        if capacity > before:
            self._move(np.arange(len(self.length)), capacity)

    def reorder(self, rows: NDArray[np.int64]) -> None:
        """See Cache."""
        if not np.array_equal(rows, np.arange(len(self.length))):
            self._move(rows, self._caches.current.capacity)

    def _move(self, rows: NDArray[np.int64], capacity: int) -> None:
        """Row i takes over what row `rows[i]` holds."""
        with self._decoder.device.lock:
            self._caches.move(rows, capacity, self._longest)
        self.length = self.length[rows]

    def rewind(self, length: int) -> None:
        """See Cache. What comes next is written over the rest."""
        self.length[:] = length

    def keep(self, inputs: NDArray[np.int64]) -> None:
        """See RunningCache."""
        width = len(self.length) // self._inputs
        self.reorder((inputs[:, None] * width + np.arange(width)).reshape(-1))
        if self._source is not None and not np.array_equal(inputs, np.arange(self._inputs)):
            room = self._source.current.capacity
            with self._decoder.device.lock:
                self._source.move(inputs, room, int(self._source_length.max(initial=0)))
            self._source_length = self._source_length[inputs]
        self._inputs = len(inputs)

    def join(self, other: DeviceCache) -> None:
        """See RunningCache."""
        with self._decoder.device.lock:
            _append(self._caches, other._caches, self._longest, other._longest)
            if self._source is not None and other._source is not None:
                used = int(self._source_length.max()), int(other._source_length.max())
                _append(self._source, other._source, *used)
        self.length = np.concatenate((self.length, other.length))
        self._source_length = np.concatenate((self._source_length, other._source_length))
        self._inputs += other._inputs

    def read(self, row: int = 0) -> dict[str, NDArray[Any]]:
        """See SavedCache."""
        device, used = self._decoder.device, int(self.length[row])
        with device.lock:
            return {
                name: device.read(first + row * like.nbytes, like.nbytes)
                .view(like.dtype)
                .reshape(like.shape)[:, :used]
                for name, (first, like) in self._first_row().items()
            }

    def write(self, values: Mapping[str, NDArray[Any]], length: int) -> None:
        """See SavedCache."""
        self.reserve(length)
        places = self._first_row()
        fill_row({name: row for name, (_, row) in places.items()}, values, length)
        with self._decoder.device.lock:
            for place, row in places.values():
                self._decoder.device.write(place, row)
        self.length[:] = length

    def _first_row(self) -> dict[str, tuple[Address, NDArray[Any]]]:
        """Where the first row of each tensor lies, and zeros (heads, capacity, head_dim) alike."""
        return {
            each.name: (each.address, np.zeros(each.shape[1:], dtype=each.kind))
            for each in self._decoder.caches.places(self._caches.current)
        }

    def step(self, tokens: Tokens, new_length: Lengths) -> Candidates:
        """One call of the graph; see Backend."""
        rows, new = tokens.shape
        self.reserve(self._longest + new)
        decoder = self._decoder
        with decoder.device.lock:
            call = self._call(rows, new)
            call.buffers.inputs.send(
                source_length=self._source_length,
                cache_length=self.length,
                new_length=new_length,
                input_ids=tokens,
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
                self.alignment = call.alignment.numpy()[..., : self._source_length.max()]
            return self._candidates(call.buffers, rows)

    def _call(self, rows: int, new: int) -> DecoderCall:
        caches, size = self._caches.current, (_power_of_two(rows), _power_of_two(rows * new))
        source = self._source.current if self._source is not None else None
        key = (caches.address, source.address if source is not None else 0, new)
        known = self._known.get(key)
        # Memory that was given back may be another set's now.
        if known is None or not known.is_of(caches, source):
            if size not in self._buffers:
                self._buffers[size] = self._decoder.buffers(self, *size)
            known = DecoderCall(self._decoder, self._buffers[size], caches, source, new)
            if len(self._known) >= CALLS:
                self._known.clear()
            self._known[key] = known
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


def _append(mine: HeldRows, theirs: HeldRows, used: int, others_used: int) -> None:
    room = max(mine.current.capacity, theirs.current.capacity)
    mine.append(theirs, room, used, others_used)


def _power_of_two(size: int) -> int:
    """The least that is no smaller: buffers of few sizes."""
    return 1 << (size - 1).bit_length()
