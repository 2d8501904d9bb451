"""A bundle's engines: found, checked, opened once for a process, and called.

Everything that can be known before TensorRT sees a plan is checked before: a damaged plan may not
come back as an error.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeAlias

from seq2edge.bundle import Bundle
from seq2edge.bundle.engine_info import EngineInfo, read_engine_info
from seq2edge.bundle.manifest import TensorRecord
from seq2edge.errors import BackendError, BundleError, EngineError, ForeignEngineError
from seq2edge.files.storage import file_errors
from seq2edge.runtime.backends.device import Device
from seq2edge.runtime.backends.engine_buffers import largest
from seq2edge.runtime.backends.engine_kernels import EngineKernels
from seq2edge.runtime.backends.tensorrt_library import process_logger

GRAPHS = 16  # recorded steps that are kept, each with an execution context of its own

Binding: TypeAlias = "tuple[int, tuple[int, ...] | None]"  # address; the shape of an input
Bindings: TypeAlias = "Mapping[str, Binding]"

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
    found: dict[str, list[StoredEngine]] = {}
    for record in bundle.manifest.engines:
        try:
            info = read_engine_info(bundle.file(record.sidecar))
        except BundleError as error:
            raise EngineError(f"{error}; build the engine again") from error
        engine = StoredEngine(bundle=bundle, file=record.file, info=info)
        found.setdefault(record.target, []).append(engine)
    if not found:
        raise BackendError(f"{bundle.path}: holds no engine; make one with `seq2edge build`")
    for target, engines in found.items():
        roles = sorted(engine.info.role for engine in engines)
        if roles != _roles(bundle):
            raise BackendError(
                f"{bundle.path}: for {target} there is {' and '.join(roles)}, kind "
                f"{bundle.manifest.kind} needs {' and '.join(_roles(bundle))}; build them together"
            )
    return found


def _roles(bundle: Bundle) -> list[str]:
    dims = bundle.manifest.dims
    roles = ("decoder", dims.decoder), ("encoder", dims.encoder)
    return [role for role, stack in roles if stack is not None]


def check_release(engine: StoredEngine, trt: Any) -> None:
    """Raise BackendError unless the library is the one that made the plan."""
    made = f"{engine.info.library} {engine.info.release}"
    found = f"{trt.__name__} {trt.__version__}"
    if made != found:
        raise BackendError(
            f"{engine.subject}: made by {made}, {found} is installed; build it again, or install "
            "the one that made it"
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
            told_before = hasattr(self._runtime, "get_engine_validity")
            raise (EngineError if told_before else ForeignEngineError)(
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
        told = {tensor.name: tensor for tensor in (*self.info.inputs, *self.info.outputs)}
        wrong = sorted(set(told) ^ set(names))
        wrong += sorted({tensor.name for tensor in self.info.inputs} ^ inputs)
        most = largest(self.info.sizes)
        wrong += [
            n for n in names if n in told and not _fits(told[n], engine.get_tensor_shape(n), most)
        ]
        types = {name: getattr(trt, name) for name in ("float32", "float16", "bfloat16")}
        types |= {name: getattr(trt, name) for name in ("int64", "int32", "int8", "uint8", "bool")}
        wrong += [
            n for n in names if n in told and types[told[n].dtype] != engine.get_tensor_dtype(n)
        ]
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
        present = [t.name for t in self.info.outputs if t.name.startswith("present_")]
        shared = {name: ask(name) for name in present}
        aliased = [n for n, of in shared.items() if of == n.replace("present_", "past_", 1)]
        if len(aliased) not in (0, len(present)) or len(aliased) != sum(map(bool, shared.values())):
            raise EngineError(f"{self.subject}: updates only some caches in place; build it again")
        return bool(aliased)


def _fits(told: TensorRecord, found: Iterable[int], most: Mapping[str, int]) -> bool:
    """Whether a tensor may have the shape that the library says; -1 is a size left open."""
    sizes = tuple(found)
    return len(sizes) == len(told.shape) and all(
        size in (-1, most[axis]) if isinstance(axis, str) else size == axis
        for axis, size in zip(told.shape, sizes, strict=True)
    )


def open_engine(engine: StoredEngine, trt: Any, device: Device) -> OpenEngine:
    """The engine, shared with whoever opened the same plan.

    Raises EngineError for a plan that is damaged or not for this device.
    """
    key = (trt.__name__, engine.info.plan_sha256)
    with _OPENING:
        found = _OPEN.get(key)
        if found is None:
            found = _OPEN[key] = OpenEngine(engine, trt, device)
        return found


def _read_plan(engine: StoredEngine) -> bytes:
    path = engine.bundle.file(engine.file)
    with file_errors(path):
        plan = path.read_bytes()
    found = hashlib.sha256(plan).hexdigest()
    if found != engine.info.plan_sha256:
        raise EngineError(
            f"{engine.subject}: {len(plan)} bytes with SHA-256 {found[:12]}, its sidecar says "
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
    found = [name for name, flag in flags if int(reasons) & int(flag)]
    raise ForeignEngineError(
        f"{engine.subject}: not for this {device.name} of compute capability {device.capability} "
        f"({', '.join(found).lower().replace('_', ' ') or 'no reason'}); built for "
        f"{engine.info.target}, build it for this device"
    )


class Call:
    """One execution context of a profile; only what changes is set anew."""

    def __init__(
        self,
        engine: OpenEngine,
        profile: str,
        device: Device,
        scratch: tuple[int, int],
        *,
        replayed: bool = False,
    ) -> None:
        self._engine, self._device = engine, device
        self._context = engine.context(replayed=replayed)
        if self._context is None:
            raise engine.failure("no execution context")
        index = engine.info.profiles.index(profile)
        if not self._context.set_optimization_profile_async(index, device.handle):
            raise engine.failure(f"profile {profile} is not taken")
        self._context.set_device_memory(*scratch)
        self._set: dict[str, Binding] = {}
        self._key: Hashable = None

    def run(self, key: Hashable, bindings: Callable[[], Bindings]) -> None:
        """Bind and enqueue. Raises EngineError where the engine does not take it."""
        self.prepare(key, bindings)
        if not self.enqueue():
            raise self._engine.failure("the device does not run it")

    def prepare(self, key: Hashable, bindings: Callable[[], Bindings]) -> None:
        """Bind every input and output; `key` tells whether anything is other than last time."""
        if key == self._key:
            return
        context, reshaped = self._context, False
        for name, (address, shape) in bindings().items():
            if self._set.get(name) == (address, shape):
                continue
            before = self._set.get(name, (0, None))[1]
            if shape is not None and shape != before:
                reshaped = True
                if not context.set_input_shape(name, shape):
                    raise self._engine.failure(f"does not take {name} of shape {shape}")
            if not context.set_tensor_address(name, address):
                raise self._engine.failure(f"does not take the address of {name}")
            self._set[name] = (address, shape)
        if reshaped and (missing := context.infer_shapes()):
            raise self._engine.failure(f"shapes are missing: {', '.join(missing)}")
        self._key = key

    def enqueue(self) -> bool:
        """Ask the device to run it; whether it was taken."""
        return bool(self._context.execute_async_v3(self._device.handle))


@dataclasses.dataclass
class _Recorded:
    """The step of one set of sizes and addresses; `graph` once it was recorded."""

    call: Call
    graph: Any = None


class StepCalls:
    """The step again and again: run once, recorded the second time, then replayed.

    A recording holds addresses and shapes, and a context must not change under it: each has its
    own. Where nothing can be recorded every step is enqueued by one context.
    """

    def __init__(self, engine: OpenEngine, device: Device, scratch: tuple[int, int]) -> None:
        self._engine, self._scratch = engine, scratch
        self._device = device
        self._plain: Call | None = None
        self._recorded: collections.OrderedDict[Hashable, _Recorded] = collections.OrderedDict()
        self.recording = not engine.builtin_graphs
        self.replays = 0

    def run(self, key: Hashable, bindings: Callable[[], Bindings]) -> None:
        """One step with these bindings; equal keys mean equal bindings."""
        if not self.recording:
            self._plain = self._plain or self._make()
            self._plain.run(key, bindings)
            return
        found = self._recorded.get(key)
        if found is None:
            self._evict()
            found = _Recorded(self._make())
            found.call.run(key, bindings)  # the first call of a shape settles the context's state
            self._recorded[key] = found
            return
        self._recorded.move_to_end(key)
        if found.graph is None:
            found.graph = self._device.capture(found.call.enqueue)
        if found.graph is None:
            self.recording, self._plain = False, found.call
            self._recorded.clear()  # their steps were waited for
            found.call.run(key, bindings)
            return
        self._device.launch(found.graph)
        self.replays += 1

    def _make(self) -> Call:
        builtin = self._engine.builtin_graphs
        return Call(self._engine, "step", self._device, self._scratch, replayed=builtin)

    def _evict(self) -> None:
        while len(self._recorded) >= GRAPHS:
            _, oldest = self._recorded.popitem(last=False)
            if oldest.graph is not None:
                self._device.discard(oldest.graph)
            else:
                self._device.wait()  # its context may still be running
