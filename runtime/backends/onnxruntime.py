"""ONNX Runtime: sessions over a bundle's graphs, caches bound once and written in place."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import math
import os
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle import Bundle
from seq2edge.bundle.manifest import GraphRecord
from seq2edge.errors import BackendError, CapacityError
from seq2edge.model.dims import StackDims
from seq2edge.runtime.backend import Features, Lengths, Logits, Tokens

GROWTH = 64  # an unset capacity starts here and doubles
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# Graphs in order of preference. The fused ones are for the CPU: the operator of their caches has no
# float32 kernel in the CUDA provider, and left to the CPU beside it, it fails or answers otherwise.
TARGETS = {"cpu": ("onnxruntime", "canonical"), "cuda": ("canonical",)}
# Products in float32 stay in float32, as PyTorch's do: TF32 has ten bits, so tokens would differ.
PROVIDER_OPTIONS: dict[str, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}
ERRORS_ALONE = 3  # of the library's log: that shapes are computed on the CPU is as it should be
CACHE_TYPES: dict[str, type[Any]] = {"tensor(float)": np.float32, "tensor(int8)": np.int8}

Cached: TypeAlias = NDArray[Any]  # keys or values of a cache, of one of these types


class OnnxRuntimeBackend:
    """Runs a bundle on one device with one kind of graphs.

    `device` is cpu or cuda; `target` names the graphs, by default the fastest that this version of
    ONNX Runtime runs. Raises BackendError when the library or the device does not work here.
    """

    name = "onnxruntime"
    capacity: int | None = None

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
        self._vocab = bundle.manifest.dims.vocab
        self._sessions = {
            graph.role: self._open(bundle, graph, threads)
            for graph in bundle.manifest.graphs
            if graph.target == self.target
        }
        self._cache_type = self._find_cache_type()

    def _find_cache_type(self) -> type[Any]:
        decoder = self._sessions.get("decoder")
        inputs = decoder.get_inputs() if decoder is not None else ()
        types = {put.type for put in inputs if put.name.startswith("past_")}
        return CACHE_TYPES[types.pop()] if types else np.float32

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

    def encode(self, source: Tokens | Features, source_length: Lengths) -> OnnxRuntimeMemory:
        """See Backend."""
        session = self._sessions["encoder"]
        names = [output.name for output in session.get_outputs()]
        binding = session.io_binding()
        first = "features" if source.dtype == np.float32 else "input_ids"
        binding.bind_cpu_input(first, np.ascontiguousarray(source))
        binding.bind_cpu_input("source_length", np.ascontiguousarray(source_length))
        for name in names:
            binding.bind_output(name, self.device)
        session.run_with_iobinding(binding)
        values = dict(zip(names, binding.get_outputs(), strict=True))
        return OnnxRuntimeMemory(values, np.array(source_length, dtype=np.int64))

    def start(
        self, memory: OnnxRuntimeMemory | None, rows: int, capacity: int | None
    ) -> OnnxRuntimeCache:
        """See Backend."""
        assert self._stack is not None
        return OnnxRuntimeCache(self, self._stack, memory, rows, capacity)

    def step(self, tokens: Tokens, new_length: Lengths, cache: OnnxRuntimeCache) -> Logits:
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
        logits = np.empty((len(tokens), self._vocab), dtype=np.float32)
        start = cache.length.copy()
        for column in range(tokens.shape[1]):
            cache.reserve(int(cache.length.max()) + 1)
            valid = (column < new_length).astype(np.int64)
            # A row that has no more tokens writes past its end, where the next step overwrites it.
            last = cache.run(tokens[:, column : column + 1], np.ones_like(valid))
            ends = new_length == column + 1
            logits[ends] = last[ends]
            cache.length[:] = start + np.minimum(column + 1, new_length)
        return logits

    def pool(self, source: Tokens, source_length: Lengths) -> NDArray[np.float32]:
        """See Backend."""
        feed = {"input_ids": source, "source_length": source_length}
        pooled: NDArray[np.float32] = self._sessions["encoder"].run(None, feed)[0]
        return pooled


class OnnxRuntimeMemory:
    """Cross-attention keys and values on the device, one copy for all beams."""

    def __init__(self, values: dict[str, Any], source_length: Lengths) -> None:
        self.values = values
        self.source_length = source_length


class OnnxRuntimeCache:
    """Keys and values in buffers of fixed capacity; input and output share them."""

    def __init__(
        self,
        backend: OnnxRuntimeBackend,
        stack: StackDims,
        memory: OnnxRuntimeMemory | None,
        rows: int,
        capacity: int | None,
    ) -> None:
        self._backend = backend
        self._session = backend._sessions["decoder"]  # noqa: SLF001 - one module, one owner
        self._stack = stack
        self._memory = memory
        self._limit = capacity
        self._names = [
            f"{part}_{layer}" for layer in range(stack.layers) for part in ("key", "value")
        ]
        self.length: Lengths = np.zeros(rows, dtype=np.int64)
        self._capacity = capacity or GROWTH
        self._tokens: Tokens
        self._allocate(rows)

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
        self._move(np.arange(len(self.length)))

    def reorder(self, rows: NDArray[np.int64]) -> None:
        """See Cache."""
        if len(rows) != len(self.length):
            self._move(rows)
            return
        moved = np.flatnonzero(rows != np.arange(len(rows)))
        if len(moved):
            used = int(self.length.max())
            for buffer in self._buffers:
                buffer.permute(moved, rows[moved], used)
            self.length[:] = self.length[rows]

    def run(self, tokens: Tokens, new_length: Lengths) -> Logits:
        """One call of the graph; the tokens are already known to fit."""
        on_host, reshaped = self._backend.device == "cpu", tokens.shape != self._tokens.shape
        if reshaped:
            self._tokens = np.empty(tokens.shape, dtype=np.int64)
        self._tokens[:] = tokens
        self._new_length[:] = new_length
        if reshaped or not on_host:
            self._bind_changing()
        self._session.run_with_iobinding(self._binding)
        self.length += new_length
        if not on_host:
            self._binding.synchronize_outputs()
        return self._logits

    def _bind_changing(self) -> None:
        """Bind what changes from call to call: a device needs that before each (see `_bind`)."""
        _bind(self._binding, "input_ids", self._tokens)
        _bind(self._binding, "new_length", self._new_length)
        _bind(self._binding, "cache_length", self.length)

    def _allocate(self, rows: int) -> None:
        """New buffers for `rows` rows, bound to a new binding."""
        stack = self._stack
        shape = (rows, stack.kv_heads, self._capacity, stack.head_dim)
        device, ort = self._backend.device, self._backend._ort  # noqa: SLF001
        kind = self._backend._cache_type  # noqa: SLF001
        self._buffers = [_Buffer(ort, shape, device, kind) for _ in self._names]
        self._binding = self._session.io_binding()
        for name, buffer in zip(self._names, self._buffers, strict=True):
            self._binding.bind_ortvalue_input(f"past_{name}", buffer.value)
        self._tokens = np.zeros((rows, 1), dtype=np.int64)
        self._new_length: Lengths = np.ones(rows, dtype=np.int64)
        self._logits: Logits = np.empty((rows, self._backend._vocab), dtype=np.float32)  # noqa: SLF001
        self._bind_changing()
        if self._memory is not None:
            _bind(self._binding, "source_length", self._memory.source_length)
            for name, value in self._memory.values.items():
                self._binding.bind_ortvalue_input(name, value)
        self._binding.bind_output(
            "logits", "cpu", 0, np.float32, self._logits.shape, self._logits.ctypes.data
        )
        for name, buffer in zip(self._names, self._buffers, strict=True):
            self._binding.bind_ortvalue_output(f"present_{name}", buffer.value)

    def _move(self, rows: NDArray[np.int64]) -> None:
        """Other rows or another capacity: new buffers with what the old ones hold."""
        old, used = self._buffers, int(self.length.max(initial=0))
        self.length = self.length[rows]
        self._allocate(len(rows))
        for before, after in zip(old, self._buffers, strict=True):
            after.fill(before, rows, used)


class _Buffer:
    """One cache tensor on a device, (rows, kv_heads, capacity, head_dim), floats or integers."""

    def __init__(self, ort: Any, shape: tuple[int, ...], device: str, kind: type[Any]) -> None:
        self.value = ort.OrtValue.ortvalue_from_shape_and_type(shape, kind, device, 0)
        self._shape = shape
        self._kind = kind
        self._host = device == "cpu"
        self._scratch: Cached | None = None
        if self._host:
            self.view()[:] = 0
        else:
            self.value.update_inplace(np.zeros(shape, dtype=kind))

    def view(self) -> Cached:
        """The buffer's own memory on the host, a copy of it elsewhere."""
        if not self._host:
            copied: Cached = self.value.numpy()
            return copied
        element = np.ctypeslib.as_ctypes_type(self._kind)
        memory = (element * math.prod(self._shape)).from_address(self.value.data_ptr())
        flat: Cached = np.ctypeslib.as_array(memory)
        return flat.reshape(self._shape)

    def permute(self, moved: NDArray[np.int64], sources: NDArray[np.int64], used: int) -> None:
        """Rows `moved` take over what rows `sources` hold; nothing past `used` matters."""
        view = self.view()
        if self._scratch is None:
            self._scratch = np.empty(self._shape, dtype=self._kind)
        for slot, source in enumerate(sources):
            self._scratch[slot, :, :used] = view[source, :, :used]
        for slot, row in enumerate(moved):
            view[row, :, :used] = self._scratch[slot, :, :used]
        if not self._host:
            self.value.update_inplace(view)

    def fill(self, other: _Buffer, rows: NDArray[np.int64], used: int) -> None:
        """Take over `used` tokens of the other buffer's rows."""
        view = self.view()
        source = other.view()
        for row, old in enumerate(rows):
            view[row, :, :used] = source[old, :, :used]
        if not self._host:
            self.value.update_inplace(view)


def _bind(binding: Any, name: str, array: NDArray[np.int64]) -> None:
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
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise BackendError(f"cuda: no NVIDIA driver here ({error}); use the cpu") from error
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
