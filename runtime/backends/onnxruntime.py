"""ONNX Runtime: sessions over a bundle's graphs, caches bound once and written in place.

On the CPU `onnxruntime_cache` has them, on a CUDA device `onnxruntime_device`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle import Bundle
from seq2edge.bundle.contract import CROSS, PAST
from seq2edge.bundle.engine_info import ALIGNMENT, LAST_POSITIONS, SEGMENTS, TOP_VALUES
from seq2edge.bundle.graph_check import checked_graph
from seq2edge.bundle.manifest import GraphRecord
from seq2edge.errors import BackendError, foreign_errors
from seq2edge.runtime.backend import (
    Answer,
    Features,
    Lengths,
    Logits,
    Tokens,
    all_logits,
    check_lengths,
    driver_error,
    encoder_feed,
)
from seq2edge.runtime.backends.device import Device, import_cuda
from seq2edge.runtime.backends.onnxruntime_buffers import CACHE_TYPES, HostCaches, Memory
from seq2edge.runtime.backends.onnxruntime_cache import OnnxRuntimeCache, run_error
from seq2edge.runtime.backends.onnxruntime_device import REMEDY, DeviceCache, DeviceDecoder
from seq2edge.runtime.memory import allocating

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# Graphs in order of preference. The fused ones are for the CPU: the operator of their caches has no
# float32 kernel in the CUDA provider, and left to the CPU beside it, it fails or answers otherwise.
# Those for TensorRT are canonical ones in half precision, whose operators the CUDA provider has.
TARGETS = {"cpu": ("onnxruntime", "canonical"), "cuda": ("canonical", "tensorrt")}
DEVICE_RELEASE = "1.31"  # the oldest that runs graphs for TensorRT, whose records name none
# Products in float32 stay in float32, as PyTorch's do: TF32 has ten bits, so tokens would differ.
PROVIDER_OPTIONS: dict[str, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}
# Signed 8-bit weights are read as unsigned ones. The library does so on every x86 processor when it
# is asked, also on those whose sums are exact, where it costs kernels that are four times as fast.
SHIFTED_WEIGHTS = "session.x64quantprecision"
EXACT_SUMS = {"avx512_vnni", "avx_vnni", "amx_int8"}  # as Linux names them
# Its threads wait for work busily within a run alone: between two they would take the processor
# from the caller, and from other models of the process.
REST_BETWEEN_RUNS = ("session.force_spinning_stop", "1")
# Encoder positions of clips or images that are encoded at a time on the CPU: with more of them
# activations leave its caches, and eight windows of Whisper take eight times the memory.
TOGETHER = 2048
FATAL_ALONE = 4  # of the library's log: its errors are raised too, and say names as they stand


class OnnxRuntimeBackend:
    """Runs a bundle on one device with one kind of graphs.

    `device` is cpu or cuda; `target` names the graphs, by default the fastest that this version of
    ONNX Runtime runs. Raises BackendError when the library or the device does not work here.
    """

    name = "onnxruntime"
    capacity: int | None = None
    rows: int | None = None
    running = True

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
        places = [place for place, targets in TARGETS.items() if self.target in targets]
        if places and device not in places:
            where = "the cpu" if places == ["cpu"] else " and ".join(places)
            raise BackendError(
                f"graphs: {self.target} is for {where} alone; leave it out for {device}"
            )
        if not runs(bundle, self.target, version):
            raise BackendError(
                f"{bundle.path}: its {self.target} graphs need onnxruntime "
                f"{graph_release(bundle, self.target)}, {version} is installed"
            )
        self._gpu = Device(import_cuda(), remedy=REMEDY) if device == "cuda" else None
        for role in bundle.manifest.kind.split("-"):
            bundle.graph(role, self.target)  # must be there
        self._dims = bundle.manifest.dims
        self.vocab = bundle.manifest.dims.vocab
        self.sessions = {
            graph.role: self._open(bundle, graph, threads)
            for graph in bundle.manifest.graphs
            if graph.target == self.target
        }
        if self._gpu is not None:
            self._gpu.before_close(self.sessions.clear)
        self._read_decoder(bundle)

    def _read_decoder(self, bundle: Bundle) -> None:
        """What its inputs and outputs say of caches and answers."""
        decoder = self.sessions.get("decoder")
        inputs = {put.name: put for put in decoder.get_inputs()} if decoder is not None else {}
        outputs = {put.name: put for put in decoder.get_outputs()} if decoder is not None else {}
        # By the graph: its heads may be padded, see pad_heads.py.
        with foreign_errors(BackendError, f"{bundle.path}: the decoder's inputs are none of ours"):
            self._layout = {
                name.removeprefix(PAST): (
                    (int(put.shape[1]), int(put.shape[3])),
                    _cache_type(bundle, put.type),
                )
                for name, put in inputs.items()
                if name.startswith(PAST)
            }
            # A memory in 8 bits is a cache to the graph: each row has its own.
            self.memory_by_row = any(
                name.startswith(CROSS) and _cache_type(bundle, put.type) is np.int8
                for name, put in inputs.items()
            )
            # Older bundles neither give the largest logits apart nor answer several tokens.
            self.top_k = int(outputs[TOP_VALUES].shape[1]) if TOP_VALUES in outputs else 0
            # Of an alignment that tells heads apart, how many.
            aligned = outputs[ALIGNMENT].shape if ALIGNMENT in outputs else ()
            self.aligned_heads = tuple(map(int, aligned[1:-1]))
        self.verifies = LAST_POSITIONS in inputs and self._gpu is None
        self.aligns = ALIGNMENT in outputs
        self._on_device = self._open_device_decoder(decoder) if decoder is not None else None

    def _open_device_decoder(self, decoder: Any) -> DeviceDecoder | None:
        if self._gpu is None:
            return None
        return DeviceDecoder(
            self._ort,
            self._gpu,
            lambda model: self._session(model, "the graph that chooses tokens", None),
            decoder,
            self._layout,
            self.vocab,
        )

    def _open(self, bundle: Bundle, graph: GraphRecord, threads: int | None) -> Any:
        path = checked_graph(bundle, graph)
        return self._session(os.fspath(path), str(path), threads)

    def _session(self, model: str | bytes, subject: str, threads: int | None) -> Any:
        """A session of a graph, by its path or in bytes."""
        options = self._ort.SessionOptions()
        options.log_severity_level = FATAL_ALONE
        options.add_session_config_entry(SHIFTED_WEIGHTS, str(int(sums_may_saturate())))
        options.add_session_config_entry(*REST_BETWEEN_RUNS)
        if threads is not None:
            options.intra_op_num_threads = threads
        provider, settings = self._provider, PROVIDER_OPTIONS[self.device]
        if self._gpu is not None:
            stream = {"has_user_compute_stream": "1", "user_compute_stream": str(self._gpu.handle)}
            settings = {**settings, **stream}
        try:
            session = self._ort.InferenceSession(model, options, providers=[(provider, settings)])
        except Exception as error:  # its exceptions have no common base
            raise BackendError(f"{subject}: onnxruntime: {error}") from error
        if session.get_providers()[0] != provider:
            raise BackendError(
                f"onnxruntime: asked for {provider}, got {session.get_providers()[0]}; "
                "its CUDA libraries do not load here"
            )
        return session

    def encode(self, source: Tokens | Features, source_length: Lengths) -> Memory:
        """See Backend."""
        dims = self._dims
        feed, positions = encoder_feed(dims, source, source_length)
        if self.target == "onnxruntime" and np.any(positions < dims.source_positions):
            raise BackendError(
                f"source_length: {positions.min()}, these graphs read all "
                f"{dims.source_positions} positions of a clip or an image"
            )
        at_a_time = max(1, TOGETHER // (dims.source_positions or 1))
        if self._gpu is None and dims.source_positions and len(positions) > at_a_time:
            return self._encode_in_parts(feed, positions, at_a_time)
        names = [output.name for output in self.sessions["encoder"].get_outputs()]
        with self._gpu.lock if self._gpu is not None else contextlib.nullcontext():
            outputs = self._run_encoder(
                feed, lambda binding: [binding.bind_output(name, self.device) for name in names]
            )
        return Memory(dict(zip(names, outputs, strict=True)), np.array(positions, dtype=np.int64))

    def _encode_in_parts(
        self, feed: dict[str, NDArray[Any]], positions: Lengths, at_a_time: int
    ) -> Memory:
        """The same of inputs of one size, few at a time, which takes no longer and less memory."""
        arrays = {
            put.name: np.empty((len(positions), *map(int, put.shape[1:])), CACHE_TYPES[put.type])
            for put in self.sessions["encoder"].get_outputs()
        }
        for first in range(0, len(positions), at_a_time):
            part = slice(first, first + at_a_time)
            places = {name: array[part] for name, array in arrays.items()}
            self._run_encoder(
                {name: values[part] for name, values in feed.items()},
                functools.partial(_bind_outputs, places),
            )
        return Memory.of_arrays(arrays, np.array(positions, dtype=np.int64))

    def _run_encoder(
        self, feed: dict[str, NDArray[Any]], bind: Callable[[Any], object]
    ) -> list[Any]:
        """Its outputs, where `bind` lets them be."""
        session = self.sessions["encoder"]
        try:
            binding = session.io_binding()
            for name, values in feed.items():
                binding.bind_cpu_input(name, np.ascontiguousarray(values))
            bind(binding)
            session.run_with_iobinding(binding)
        except Exception as error:  # its exceptions have no common base
            raise run_error(error, "encoder") from error
        return list(binding.get_outputs())

    def start(
        self, memory: Memory | None, rows: int, capacity: int | None
    ) -> OnnxRuntimeCache | DeviceCache:
        """See Backend."""
        if self._on_device is not None:
            return DeviceCache(self._on_device, memory, rows, capacity)
        return OnnxRuntimeCache(self, memory, rows, capacity)

    def make_caches(self, rows: int, capacity: int) -> HostCaches:
        """Empty caches of all layers on the CPU. Raises CapacityError where there is no room."""
        with self.allocating(rows, capacity):
            return HostCaches(self._layout, rows, capacity)

    def allocating(self, rows: int, capacity: int) -> AbstractContextManager[None]:
        """Around what makes caches of this size."""
        values = (
            heads * size * np.dtype(kind).itemsize for (heads, size), kind in self._layout.values()
        )
        what = f"caches of {rows:,} rows of {capacity:,} tokens in {len(self._layout):,} tensors"
        return allocating(rows * capacity * sum(values), what)

    def step(
        self,
        tokens: Tokens,
        new_length: Lengths,
        cache: OnnxRuntimeCache | DeviceCache,
        positions: int = 1,
    ) -> Answer:
        """See Backend."""
        if isinstance(cache, DeviceCache):
            assert positions == 1, "it answers the last token alone"
            return cache.step(tokens, new_length)
        rows, new = tokens.shape
        if new > 1 and rows > 1 and self.target == "onnxruntime" and cache.length.any():
            return self._step_by_column(tokens, new_length, cache)
        return cache.step(tokens, new_length, positions)

    def _step_by_column(
        self, tokens: Tokens, new_length: Lengths, cache: OnnxRuntimeCache
    ) -> Logits:
        """Several new tokens for several rows with a past: the fused operator takes one a time."""
        logits = np.empty((len(tokens), self.vocab), dtype=np.float32)
        alignment: NDArray[np.float32] | None = None
        start = cache.length.copy()
        for column in range(tokens.shape[1]):
            # A row that has no more tokens writes past its end, where the next step overwrites it.
            one = np.ones_like(start)
            last = all_logits(cache.step(tokens[:, column : column + 1], one, 1))
            ends = new_length == column + 1
            logits[ends] = last[ends]
            if self.aligns:
                alignment = cache.alignment.copy() if alignment is None else alignment
                alignment[ends] = cache.alignment[ends]
            cache.set_length(start + np.minimum(column + 1, new_length))
        if alignment is not None:
            cache.alignment = alignment
        return logits

    def pool(
        self, source: Tokens, source_length: Lengths, token_types: Tokens | None = None
    ) -> NDArray[np.float32]:
        """See Backend. Graphs of older bundles read no types."""
        check_lengths("source_length", source_length, source.shape[1])
        session = self.sessions["encoder"]
        feed = {"input_ids": source, "source_length": source_length}
        if token_types is not None or any(i.name == SEGMENTS for i in session.get_inputs()):
            feed[SEGMENTS] = np.zeros_like(source) if token_types is None else token_types
        try:
            pooled: NDArray[np.float32] = session.run(None, feed)[0]
        except Exception as error:  # its exceptions have no common base
            raise run_error(error, "encoder") from error
        return pooled


def _bind_outputs(arrays: dict[str, NDArray[Any]], binding: Any) -> None:
    """Let a session write into these arrays of the host."""
    for name, array in arrays.items():
        binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def _cache_type(bundle: Bundle, name: str) -> type[Any]:
    """The type of a cache's numbers. Raises BackendError where numpy has none."""
    if name not in CACHE_TYPES:
        raise BackendError(
            f"{bundle.path}: its caches are {name}, which engines alone have; quantize by fp16"
        )
    return CACHE_TYPES[name]


def import_onnxruntime() -> Any:
    """The library, or a BackendError that says what to install."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"onnxruntime: not usable here ({error}); install seq2edge[cpu] or seq2edge[cuda]"
        ) from error
    return onnxruntime


def require_release(least: str) -> None:
    """Raise BackendError where ONNX Runtime is older: it checks what export and quantize write."""
    version = str(import_onnxruntime().__version__)
    if _release(version) < _release(least):
        raise BackendError(
            f"onnxruntime: {version} is installed, to make bundles takes {least} or newer, which "
            "needs Python 3.11 or newer; older ones run them"
        )


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


@functools.cache  # the file is long where there are many processors
def sums_may_saturate(info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor may add pairs of 8-bit products in 16 bits: x86 without VNNI does.

    Where its features are not known here, it may.
    """
    try:
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return True
    flags = next((line for line in lines if line.startswith("flags")), "")
    return EXACT_SUMS.isdisjoint(flags.split())


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
    if not present:
        raise BackendError(f"{bundle.path}: has no graphs, nothing can run it")
    ours = [target for target in TARGETS[device] if target in present]
    if not ours:
        remedy = "quantize for onnxruntime to run it here"
        if device != "cpu" and present.intersection(TARGETS["cpu"]):
            remedy = (
                f"they run on the cpu; for {device} take the float bundle, or quantize that by fp16"
            )
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
    least = DEVICE_RELEASE if target == "tensorrt" else "0"
    return max((graph.requires.get("onnxruntime", least) for graph in graphs), key=_release)


def _release(version: str) -> tuple[int, ...]:
    """1.23.2 -> (1, 23, 2); what follows the numbers is left out."""
    parts = []
    for part in version.split("."):
        if not re.fullmatch("[0-9]{1,1000}", part):
            break
        parts.append(int(part))
    return tuple(parts)
