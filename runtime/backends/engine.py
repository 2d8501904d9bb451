"""A bundle's engines: found, checked, and opened once for a process.

Everything that can be known before TensorRT sees a plan is checked before: a damaged plan may not
come back as an error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from seq2edge.bundle import Bundle
from seq2edge.bundle.contract import PAST, PRESENT
from seq2edge.bundle.engine_info import EngineInfo, EngineSizes, read_engine_info
from seq2edge.bundle.manifest import TensorRecord
from seq2edge.errors import BackendError, BundleError, EngineError, ForeignEngineError
from seq2edge.files.storage import file_errors
from seq2edge.files.user_cache import cache_folder, file_name, write_cached
from seq2edge.runtime.backends.device import Device
from seq2edge.runtime.backends.tensorrt_library import process_logger

KERNELS = "kernels"  # a folder of the user's cache
DIGITS = 16  # of an engine's hash in a file name there

_OPEN: weakref.WeakValueDictionary[tuple[str, str], OpenEngine] = weakref.WeakValueDictionary()
_OPENING = threading.Lock()


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredEngine:
    """An engine of a bundle before it is opened."""

    bundle: Bundle
    file: str
    info: EngineInfo

    @property
    def subject(self) -> str:
        """How errors name it."""
        return str(self.bundle.path / self.file)


def find_engines(bundle: Bundle) -> dict[str, list[StoredEngine]]:
    """A bundle's engines by target. Raises BackendError where there are none."""
    by_target: dict[str, list[StoredEngine]] = {}
    for record in bundle.manifest.engines:
        try:
            info = read_engine_info(bundle.file(record.sidecar))
        except BundleError as error:
            raise EngineError(f"{error}; build the engine again") from error
        engine = StoredEngine(bundle=bundle, file=record.file, info=info)
        by_target.setdefault(record.target, []).append(engine)
    if not by_target:
        raise BackendError(f"{bundle.path}: holds no engine; make one with `seq2edge build`")
    for target, engines in by_target.items():
        roles = sorted(engine.info.role for engine in engines)
        if roles != _roles(bundle):
            raise BackendError(
                f"{bundle.path}: for {target} there is {' and '.join(roles)}, kind "
                f"{bundle.manifest.kind} needs {' and '.join(_roles(bundle))}; build them together"
            )
    return by_target


def _roles(bundle: Bundle) -> list[str]:
    dims = bundle.manifest.dims
    roles = ("decoder", dims.decoder), ("encoder", dims.encoder)
    return [role for role, stack in roles if stack is not None]


def check_release(engine: StoredEngine, trt: Any) -> None:
    """Raise BackendError unless the library is the one that made the plan."""
    made = f"{engine.info.library} {engine.info.release}"
    installed = f"{trt.__name__} {trt.__version__}"
    if made != installed:
        raise BackendError(
            f"{engine.subject}: made by {made}, {installed} is installed; build it again, or "
            "install the one that made it"
        )


class OpenEngine:
    """A deserialized engine: its weights are on the device once, for all that use it."""

    def __init__(self, engine: StoredEngine, trt: Any, device: Device) -> None:
        self.info = engine.info
        self.subject = engine.subject
        self.trt = trt
        self._log = process_logger(trt)
        self._log.lines.clear()
        self._runtime = trt.Runtime(self._log)  # has to outlive the engine
        plan = _read_plan(engine)
        _check_validity(engine, trt, self._runtime, plan, device)
        self.engine = self._runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            checked_before = hasattr(self._runtime, "get_engine_validity")
            raise (EngineError if checked_before else ForeignEngineError)(
                f"{self.subject}: {trt.__name__} {trt.__version__} does not open it on "
                f"{device.name} ({self._log.errors()}); build it again here"
            )
        self._check_tensors()
        self.in_place = self._find_in_place()
        self._kernels = EngineKernels(engine.info, device)
        self._kernels.save_after(self)

    @property
    def builtin_graphs(self) -> bool:
        """Whether the library records and replays steps on its own (TensorRT-RTX does).

        Its kernels are compiled here, first general ones and then some for a shape: only it knows
        when a recording is worth keeping.
        """
        return hasattr(self.trt, "CudaGraphStrategy")

    @property
    def scratch_size(self) -> int:
        """Bytes of device memory that a context of any profile needs while it runs."""
        return int(self.engine.device_memory_size_v2)

    def context(self, *, replayed: bool) -> Any:
        """A new execution context without memory of its own."""
        strategy = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self.builtin_graphs:
            return self.engine.create_execution_context(strategy)
        config = self.engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        self._kernels.share(config)
        if replayed:
            config.cuda_graph_strategy = self.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self.engine.create_execution_context(config)

    def save_kernels(self) -> None:
        """Keep what the device compiled for the next process; nothing where it compiles none."""
        self._kernels.save()

    def failure(self, what: str) -> EngineError:
        """The error that a call of the library failed, with what it logged."""
        return EngineError(f"{self.subject}: {what} ({self._log.errors()})")

    def _check_tensors(self) -> None:
        """The sidecar must speak of this very engine: addresses are bound by what it says."""
        engine, trt = self.engine, self.trt
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = {n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT}
        described = {tensor.name: tensor for tensor in (*self.info.inputs, *self.info.outputs)}
        wrong = sorted(set(described) ^ set(names))
        wrong += sorted({tensor.name for tensor in self.info.inputs} ^ inputs)
        both, most = [n for n in names if n in described], largest(self.info.sizes)
        wrong += [n for n in both if not _fits(described[n], engine.get_tensor_shape(n), most)]
        types = {name: getattr(trt, name) for name in ("float32", "float16", "bfloat16")}
        types |= {name: getattr(trt, name) for name in ("int64", "int32", "int8", "uint8", "bool")}
        wrong += [n for n in both if types[described[n].dtype] != engine.get_tensor_dtype(n)]
        if engine.num_optimization_profiles != len(self.info.profiles):
            wrong.append(f"{engine.num_optimization_profiles} profiles")
        if wrong:
            raise EngineError(
                f"{self.subject}: its sidecar is of another engine ({', '.join(wrong)}); "
                "build it again"
            )

    def _find_in_place(self) -> bool:
        """Whether caches are updated where they are; the library's own word counts first."""
        ask = getattr(self.engine, "get_aliased_input_tensor", None)
        if ask is None:
            return self.info.form == "masked"
        present = [t.name for t in self.info.outputs if t.name.startswith(PRESENT)]
        shared = {name: ask(name) for name in present}
        aliased = [n for n, of in shared.items() if of == PAST + n.removeprefix(PRESENT)]
        if len(aliased) not in (0, len(present)) or len(aliased) != sum(map(bool, shared.values())):
            raise EngineError(f"{self.subject}: updates only some caches in place; build it again")
        return bool(aliased)


def _fits(tensor: TensorRecord, shape: Iterable[int], most: Mapping[str, int]) -> bool:
    """Whether a tensor may have the shape that the library says; -1 is a size left open."""
    sizes = tuple(shape)
    return len(sizes) == len(tensor.shape) and all(
        size in (-1, most[axis]) if isinstance(axis, str) else size == axis
        for axis, size in zip(tensor.shape, sizes, strict=True)
    )


def largest(sizes: EngineSizes) -> dict[str, int]:
    """The most of every symbol."""
    return {
        "batch": sizes.batch[2],
        "rows": sizes.rows,
        "source": sizes.source[2],
        "new": sizes.prompt[2],
        "capacity": sizes.capacity,
    }


def open_engine(engine: StoredEngine, trt: Any, device: Device) -> OpenEngine:
    """The engine, shared with whoever opened the same plan.

    Raises EngineError for a plan that is damaged or not for this device.
    """
    key = (trt.__name__, engine.info.plan_sha256)
    with _OPENING:
        opened = _OPEN.get(key)
        if opened is None:
            opened = _OPEN[key] = OpenEngine(engine, trt, device)
        return opened


def _read_plan(engine: StoredEngine) -> bytes:
    path = engine.bundle.file(engine.file)
    with file_errors(path):
        plan = path.read_bytes()
    digest = hashlib.sha256(plan).hexdigest()
    if digest != engine.info.plan_sha256:
        raise EngineError(
            f"{engine.subject}: {len(plan)} bytes with SHA-256 {digest[:12]}, its sidecar says "
            f"{engine.info.plan_sha256[:12]}; it is damaged or truncated, build it again"
        )
    return plan


def _check_validity(
    engine: StoredEngine, trt: Any, runtime: Any, plan: bytes, device: Device
) -> None:
    """TensorRT-RTX tells why a plan is not for this device; TensorRT only when it opens it."""
    if not hasattr(runtime, "get_engine_validity"):
        return
    validity, reasons = runtime.get_engine_validity(plan)
    if validity != trt.EngineValidity.INVALID:
        return
    flags = trt.EngineInvalidityDiagnostics.__members__.items()
    reason = [name for name, flag in flags if int(reasons) & int(flag)]
    raise ForeignEngineError(
        f"{engine.subject}: not for this {device.name} of compute capability {device.capability} "
        f"({', '.join(reason).lower().replace('_', ' ') or 'no reason'}); built for "
        f"{engine.info.target}, build it for this device"
    )


class EngineKernels:
    """TensorRT-RTX's compiled kernels of an engine, kept on disk from one process to the next.

    TensorRT-RTX compiles an engine's kernels on the device, general ones when a context is made and
    others for the shapes that come; all contexts of an engine share them. What a process compiled
    is written to the user's cache when its engine was checked and when it is dropped, and read by
    the next. The library itself refuses what another release, device or driver compiled, and
    compiles again: it is never an error.
    """

    def __init__(self, info: EngineInfo, device: Device) -> None:
        self.file = _kernel_file(info, device)
        self._cache: Any = None
        self._known = b""

    def share(self, config: Any) -> None:
        """Let contexts of this runtime configuration use what is compiled, and add to it."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            self._read()
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Write what is compiled, if that is more than was read."""
        if self._cache is None or self.file is None:
            return
        data = bytes(self._cache.serialize())
        if data == self._known:
            return
        with contextlib.suppress(OSError):  # then the next process compiles again
            write_cached(self.file, data)
            self._known = data

    def save_after(self, owner: object) -> None:
        """Write it when `owner` is dropped, or at the end of the process."""
        weakref.finalize(owner, self._save_at_last)

    def _save_at_last(self) -> None:
        """Errors are none: the driver may be gone at the end of a process."""
        with contextlib.suppress(Exception):
            self.save()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            data = self.file.read_bytes() if self.file is not None else b""
            if data and self._cache.deserialize(data):
                self._known = data


def _kernel_file(info: EngineInfo, device: Device) -> Path | None:
    folder = cache_folder()
    if folder is None:
        return None
    parts = (info.library, info.release, device.name, device.capability, info.plan_sha256[:DIGITS])
    return folder / KERNELS / file_name(*parts, suffix=".kernels")
