"""ONNX Runtime: sessions over a bundle's graphs, caches bound once and written in place."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import os
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle import Bundle
from seq2edge.bundle.engine_info import LOG_SUM_EXP, TOP_IDS, TOP_VALUES, top_outputs
from seq2edge.bundle.manifest import GraphRecord
from seq2edge.errors import BackendError, CapacityError
from seq2edge.runtime.backend import (
    Answer,
    Candidates,
    Features,
    Lengths,
    Logits,
    Tokens,
    all_logits,
    driver_error,
)
from seq2edge.runtime.backends.onnxruntime_cache import (
    CACHE_TYPES,
    DeviceCaches,
    HostCaches,
    Memory,
)

GROWTH = 64  # an unset capacity starts here and doubles
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# Graphs in order of preference. The fused ones are for the CPU: the operator of their caches has no
# float32 kernel in the CUDA provider, and left to the CPU beside it, it fails or answers otherwise.
TARGETS = {"cpu": ("onnxruntime", "canonical"), "cuda": ("canonical",)}
# Products in float32 stay in float32, as PyTorch's do: TF32 has ten bits, so tokens would differ.
PROVIDER_OPTIONS: dict[str, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}
ERRORS_ALONE = 3  # of the library's log: that shapes are computed on the CPU is as it should be


class OnnxRuntimeBackend:
    """Runs a bundle on one device with one kind of graphs.

    `device` is cpu or cuda; `target` names the graphs, by default the fastest that this version of
    ONNX Runtime runs. Raises BackendError when the library or the device does not work here.
    """

    name = "onnxruntime"
    capacity: int | None = None
    running: bool  # on the CPU, where rows move with a few copies

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "cpu",
        target: str | None = None,
        threads: int | None = None,
    ) -> None:
        self._ort = import_onnxruntime()
        self.device = device
        self.running = device == "cpu"
        version = str(self._ort.__version__)
        self._provider = check_device(self._ort, device)
        self.target = target or choose_target(bundle, version, device)
        if self.target in TARGETS["cpu"] and self.target not in TARGETS[device]:
            raise BackendError(
                f"graphs: {self.target} is for the cpu alone; leave it out for {device}"
            )
        if not runs(bundle, self.target, version):
            raise BackendError(
                f"{bundle.path}: its {self.target} graphs need onnxruntime "
                f"{graph_release(bundle, self.target)}, {version} is installed"
            )
        self._stack = bundle.manifest.dims.decoder
        self.vocab = bundle.manifest.dims.vocab
        self.sessions = {
            graph.role: self._open(bundle, graph, threads)
            for graph in bundle.manifest.graphs
            if graph.target == self.target
        }
        self._cache_type = self._find_cache_type()
        self.top_k = self._find_top_k()

    def _find_cache_type(self) -> type[Any]:
        decoder = self.sessions.get("decoder")
        inputs = decoder.get_inputs() if decoder is not None else ()
        types = {put.type for put in inputs if put.name.startswith("past_")}
        return CACHE_TYPES[types.pop()] if types else np.float32

    def _find_top_k(self) -> int:
        """How many of the largest logits its decoder gives apart; bundles of before give none."""
        decoder = self.sessions.get("decoder")
        outputs = decoder.get_outputs() if decoder is not None else ()
        return next((int(put.shape[1]) for put in outputs if put.name == TOP_VALUES), 0)

    def _open(self, bundle: Bundle, graph: GraphRecord, threads: int | None) -> Any:
        options = self._ort.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        if self.device != "cpu":
            options.log_severity_level = ERRORS_ALONE
        provider = self._provider
        try:
            session = self._ort.InferenceSession(
                os.fspath(bundle.file(graph.file)),
                options,
                providers=[(provider, PROVIDER_OPTIONS[self.device])],
            )
        except Exception as error:  # its exceptions have no common base
            raise BackendError(f"{bundle.path / graph.file}: onnxruntime: {error}") from error
        if session.get_providers()[0] != provider:
            raise BackendError(
                f"onnxruntime: asked for {provider}, got {session.get_providers()[0]}; "
                "its CUDA libraries do not load here"
            )
        return session

    def encode(self, source: Tokens | Features, source_length: Lengths) -> Memory:
        """See Backend."""
        session = self.sessions["encoder"]
        names = [output.name for output in session.get_outputs()]
        binding = session.io_binding()
        first = "features" if source.dtype == np.float32 else "input_ids"
        binding.bind_cpu_input(first, np.ascontiguousarray(source))
        binding.bind_cpu_input("source_length", np.ascontiguousarray(source_length))
        for name in names:
            binding.bind_output(name, self.device)
        session.run_with_iobinding(binding)
        values = dict(zip(names, binding.get_outputs(), strict=True))
        return Memory(values, np.array(source_length, dtype=np.int64))

    def start(self, memory: Memory | None, rows: int, capacity: int | None) -> OnnxRuntimeCache:
        """See Backend."""
        return OnnxRuntimeCache(self, memory, rows, capacity)

    def make_caches(self, rows: int, capacity: int) -> HostCaches | DeviceCaches:
        """Empty keys and values of all layers."""
        stack = self._stack
        assert stack is not None
        shape = (rows, stack.kv_heads, capacity, stack.head_dim)
        names = [f"{part}_{layer}" for layer in range(stack.layers) for part in ("key", "value")]
        if self.device == "cpu":
            return HostCaches(names, shape, self._cache_type)
        return DeviceCaches(self._ort, self.device, names, shape, self._cache_type)

    def step(self, tokens: Tokens, new_length: Lengths, cache: OnnxRuntimeCache) -> Answer:
        """See Backend. The result is valid until the cache's next step."""
        rows, new = tokens.shape
        fused = self.target == "onnxruntime"
        if fused and rows > 1 and new > 1 and cache.length.any():
            return self._step_by_column(tokens, new_length, cache)
        cache.reserve(int(cache.length.max()) + new)
        return cache.run(tokens, new_length)

    def _step_by_column(
        self, tokens: Tokens, new_length: Lengths, cache: OnnxRuntimeCache
    ) -> Logits:
        """Several new tokens for several rows with a past: the fused operator takes one a time."""
        logits = np.empty((len(tokens), self.vocab), dtype=np.float32)
        start = cache.length.copy()
        for column in range(tokens.shape[1]):
            cache.reserve(int(cache.length.max()) + 1)
            valid = (column < new_length).astype(np.int64)
            # A row that has no more tokens writes past its end, where the next step overwrites it.
            last = all_logits(cache.run(tokens[:, column : column + 1], np.ones_like(valid)))
            ends = new_length == column + 1
            logits[ends] = last[ends]
            cache.length[:] = start + np.minimum(column + 1, new_length)
        return logits

    def pool(self, source: Tokens, source_length: Lengths) -> NDArray[np.float32]:
        """See Backend."""
        feed = {"input_ids": source, "source_length": source_length}
        pooled: NDArray[np.float32] = self.sessions["encoder"].run(None, feed)[0]
        return pooled


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
        self._limit = capacity
        self._capacity = capacity or GROWTH
        self._caches = backend.make_caches(rows, self._capacity)
        self.length: Lengths = np.zeros(rows, dtype=np.int64)
        self._common: Common = [[[0]] for _ in range(rows)]
        self._calls = 0
        self._binding: Any = None  # made anew where anything but the numbers changes
        self._tokens: Tokens
        self._new_length: Lengths
        self._logits: Logits
        self._top: dict[str, NDArray[Any]] = {}  # the largest logits, where the graph finds them

    def reserve(self, needed: int) -> None:
        """Make room for `needed` tokens a row, or refuse."""
        if needed <= self._capacity:
            return
        if self._limit is not None:
            raise CapacityError(
                f"capacity: {needed} tokens do not fit the {self._limit} that were set; "
                "set a larger capacity or none"
            )
        self._capacity *= 2 ** math.ceil(math.log2(needed / self._capacity))
        self._resize(np.arange(len(self.length)))

    def reorder(self, rows: NDArray[np.int64]) -> None:
        """See Cache. Of rows that change places, what they do not have in common is copied."""
        inputs, before = len(self._common), len(self.length)
        used, parents = int(self.length.max()), rows.tolist()
        if len(rows) == before:
            first = self._differ_from(parents, before // inputs)
            self._caches.move(rows, first, used)
            self.length[:] = self.length[rows]
        else:
            self._resize(rows)
            self.length = self.length[rows]
        self._common = self._shared(parents, before // inputs, len(rows) // inputs)

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

    def rewind(self, length: int) -> None:
        """See Cache. What comes next is written over the rest."""
        self.length[:] = length
        self._common = [[[min(n, length) for n in row] for row in rows] for rows in self._common]

    def read(self) -> dict[str, NDArray[Any]]:
        """See SavedCache."""
        return self._caches.read(int(self.length[0]))

    def write(self, values: Mapping[str, NDArray[Any]], length: int) -> None:
        """See SavedCache."""
        self.reserve(length)
        self._caches.write(values, length)
        self.length[:] = length

    def keep(self, inputs: NDArray[np.int64]) -> None:
        """See RunningCache."""
        width = len(self._common[0])
        rows = (inputs[:, None] * width + np.arange(width)).reshape(-1)
        self._caches.move(rows, [0] * len(rows), int(self.length.max()))
        self.length = self.length[rows]
        self._common = [self._common[i] for i in inputs.tolist()]
        if self._memory is not None:
            self._memory.keep(inputs)
        self._binding = None

    def join(self, other: OnnxRuntimeCache) -> None:
        """See RunningCache."""
        self.reserve(int(other.length.max()))
        assert isinstance(self._caches, HostCaches)
        assert isinstance(other._caches, HostCaches)
        self._caches.append(other._caches, int(other.length.max()))
        self.length = np.concatenate((self.length, other.length))
        self._common += other._common
        if self._memory is not None and other._memory is not None:
            self._memory.join(other._memory)
        self._binding = None

    def run(self, tokens: Tokens, new_length: Lengths) -> Answer:
        """One call of the graph; the tokens are already known to fit."""
        on_host = self._backend.device == "cpu"
        if self._binding is None or tokens.shape != self._tokens.shape:
            self._bind(tokens.shape)
        self._tokens[:] = tokens
        self._new_length[:] = new_length
        if not on_host:
            self._bind_changing()  # a device copies what is bound, see `_bind_array`
        self._backend.sessions["decoder"].run_with_iobinding(self._binding)
        self.length += new_length
        self._calls += 1
        if not on_host:
            self._binding.synchronize_outputs()
        return self._logits if not self._top else self._candidates()

    def _candidates(self) -> Candidates:
        """The largest logits of the last call; all of them as long as there is no other."""
        logits, calls = self._logits, self._calls

        def fetch() -> Logits:
            if self._calls != calls:
                raise BackendError("logits: those of a step that is over; ask before the next")
            return logits

        return Candidates(
            values=self._top[TOP_VALUES].copy(),
            ids=self._top[TOP_IDS].copy(),
            log_sum_exp=self._top[LOG_SUM_EXP].astype(np.float64),
            vocab=logits.shape[1],
            logits=fetch,
            first_of_equals=self._backend.device == "cpu",  # where its TopK is known to
        )

    def _resize(self, rows: NDArray[np.int64]) -> None:
        """Other rows or another capacity: row i holds what row `rows[i]` held."""
        self._caches.resize(rows, self._capacity, int(self.length.max()))
        self._binding = None

    def _bind(self, shape: tuple[int, ...]) -> None:
        """A binding of everything, for tokens of this shape."""
        rows = shape[0]
        self._tokens = np.zeros(shape, dtype=np.int64)
        self._new_length = np.ones(rows, dtype=np.int64)
        if self._binding is not None:
            self._bind_changing()
            return
        self._binding = self._backend.sessions["decoder"].io_binding()
        self._bind_changing()
        self._caches.bind(self._binding)
        if self._memory is not None:
            _bind_array(self._binding, "source_length", self._memory.source_length)
            self._memory.bind(self._binding)
        self._logits = np.empty((rows, self._backend.vocab), dtype=np.float32)
        self._top = {
            tensor.name: np.empty([rows, *map(int, tensor.shape[1:])], dtype=tensor.dtype)
            for tensor in top_outputs(self._backend.top_k)
        }
        for name, array in {"logits": self._logits, **self._top}.items():
            self._binding.bind_output(
                name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data
            )

    def _bind_changing(self) -> None:
        """Bind what changes from call to call: a device needs that before each."""
        _bind_array(self._binding, "input_ids", self._tokens)
        _bind_array(self._binding, "new_length", self._new_length)
        _bind_array(self._binding, "cache_length", self.length)


def _bind_array(binding: Any, name: str, array: NDArray[np.int64]) -> None:
    """Bind an input to the array's memory: later changes of the array are seen on the CPU.

    Graphs on another device take a copy of it now.
    """
    binding.bind_input(name, "cpu", 0, np.int64, array.shape, array.ctypes.data)


def import_onnxruntime() -> Any:
    """The library, or a BackendError that says what to install."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"onnxruntime: not usable here ({error}); install seq2edge[cpu] or seq2edge[cuda]"
        ) from error
    return onnxruntime


def check_device(ort: Any, device: str) -> str:
    """The provider of a device after probing that it can work here."""
    if device not in PROVIDERS:
        raise BackendError(f"device: {device!r} is unknown, known: {', '.join(PROVIDERS)}")
    provider = PROVIDERS[device]
    if provider not in ort.get_available_providers():
        raise BackendError(f"onnxruntime: built without {provider}; install seq2edge[cuda]")
    if device == "cuda":
        if error := driver_error():
            raise BackendError(f"cuda: no NVIDIA driver here ({error}); use the cpu")
        _load_cuda_libraries(ort)
    return provider


def fastest_device(ort: Any) -> str:
    """The device that `auto` means: cuda where it works here, else the CPU."""
    try:
        check_device(ort, "cuda")
    except BackendError:
        return "cpu"
    return "cuda"


def _load_cuda_libraries(ort: Any) -> None:
    """CUDA and cuDNN out of NVIDIA's wheels, where the system's loader does not look for them."""
    preload = getattr(ort, "preload_dlls", None)
    if preload is not None and importlib.util.find_spec("nvidia") is not None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            preload()


def choose_target(bundle: Bundle, version: str, device: str = "cpu") -> str:
    """The graphs that this version of ONNX Runtime runs on the device, fastest first."""
    present = {graph.target for graph in bundle.manifest.graphs}
    ours = [target for target in TARGETS[device] if target in present]
    if not ours:
        remedy = "quantize for onnxruntime to run it here"
        if device != "cpu" and present.intersection(TARGETS["cpu"]):
            remedy = f"they run on the cpu; for {device} take the float bundle"
        raise BackendError(
            f"{bundle.path}: holds graphs for {', '.join(sorted(present))} alone; {remedy}"
        )
    for target in ours:
        if runs(bundle, target, version):
            return target
    needed = min((graph_release(bundle, target) for target in ours), key=_release)
    raise BackendError(
        f"{bundle.path}: its graphs need onnxruntime {needed} or newer, {version} is installed"
    )


def runs(bundle: Bundle, target: str, version: str) -> bool:
    """Whether this release of ONNX Runtime runs the bundle's graphs of that kind."""
    return _release(version) >= _release(graph_release(bundle, target))


def graph_release(bundle: Bundle, target: str) -> str:
    """The oldest release that runs the graphs of that kind."""
    graphs = [graph for graph in bundle.manifest.graphs if graph.target == target]
    if not graphs:
        raise BackendError(f"{bundle.path}: has no graphs for {target!r}")
    return max((graph.requires.get("onnxruntime", "0") for graph in graphs), key=_release)


def _release(version: str) -> tuple[int, ...]:
    """1.23.2 -> (1, 23, 2); what follows the numbers is left out."""
    parts = []
    for part in version.split("."):
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)
