"""Memory, copies and recorded work on a CUDA device, in one stream.

A thin layer over `cuda.bindings.runtime`: every failure is a BackendError that says what was asked
for. What a `Device` allocates lives as long as it does, so that addresses can be bound once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import BackendError
from seq2edge.runtime.backend import driver_error
from seq2edge.runtime.sequences import rounded_up

ALIGNMENT = 256  # bytes; TensorRT asks it of every tensor
MEGABYTE = 1e6
ON_DEVICE = ("Kernel", "Memset", "MemAlloc", "MemFree", "Empty")  # what the device does alone

Bytes = NDArray[np.uint8]


def import_cuda() -> Any:
    """`cuda.bindings.runtime` after probing for a driver, or a BackendError with the remedy."""
    error = driver_error()
    if error is not None:
        raise BackendError(f"cuda: no NVIDIA driver here ({error}); use the cpu")
    try:
        from cuda.bindings import runtime
    except ImportError as missing:
        raise BackendError(
            f"cuda-bindings: not usable here ({missing}); install seq2edge[cuda], "
            "seq2edge[tensorrt] or seq2edge[rtx]"
        ) from missing
    return runtime


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """Tensors of one size behind each other, each a stack of rows with a pitch of their own.

    What `copy_rows` moves: for every tensor the first `width` bytes of each line of a row.
    """

    pitch: int  # bytes from a line to the next
    lines: int  # in a tensor, padding included
    row_lines: int
    tensors: int

    @property
    def row_size(self) -> int:
        """Bytes from a row to the next."""
        return self.pitch * self.row_lines

    @property
    def tensor_size(self) -> int:
        """Bytes from a tensor to the next."""
        return self.pitch * self.lines

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return self.tensor_size * self.tensors


@dataclasses.dataclass
class _Held:
    """What has to be given back, known to the finalizer of a device."""

    cuda: Any
    stream: Any
    memory: list[int]
    pinned: list[int]
    graphs: list[Any]
    users: list[Callable[[], None]] = dataclasses.field(default_factory=list)

    def release(self) -> None:
        """Wait, then free; at the end of a process the driver may be gone, so errors are none."""
        cuda = self.cuda
        for user in self.users:
            user()
        with contextlib.suppress(Exception):
            cuda.cudaStreamSynchronize(self.stream)
            for graph in self.graphs:
                cuda.cudaGraphExecDestroy(graph)
            for address in self.memory:
                cuda.cudaFree(address)
            for address in self.pinned:
                cuda.cudaFreeHost(address)
            cuda.cudaStreamDestroy(self.stream)


class Device:
    """The current CUDA device (`CUDA_VISIBLE_DEVICES` chooses it) and a stream on it.

    `remedy` is what to do where its memory is full. Raises BackendError where there is no device.
    """

    def __init__(
        self,
        cuda: Any,
        *,
        remedy: str = "build the engine with a smaller --batch, --beams or --capacity",
    ) -> None:
        self._cuda = cuda
        self._remedy = remedy
        code, count = cuda.cudaGetDeviceCount()
        if int(code) != 0 or not count:
            raise BackendError(
                f"cuda: no device here, {self._describe(code)}; check nvidia-smi, the driver's "
                "version and CUDA_VISIBLE_DEVICES"
            )
        index = self._call("cudaGetDevice")
        properties = self._call("cudaGetDeviceProperties", index)
        name = properties.name
        self.name = name.decode() if isinstance(name, bytes) else str(name)
        self.capability = f"{properties.major}.{properties.minor}"
        self.driver = int(self._call("cudaDriverGetVersion"))
        self.waits = 0  # how often the stream was waited for
        self.lock = threading.RLock()  # contexts, recordings and leases are used by one at a time
        self.stream = self._call("cudaStreamCreateWithFlags", cuda.cudaStreamNonBlocking)
        self._held = _Held(cuda, self.stream, [], [], [])
        self.close = weakref.finalize(self, self._held.release)

    def before_close(self, user: Callable[[], None]) -> None:
        """What is to be let go before the stream is: it may not keep the device alive."""
        self._held.users.append(user)

    @property
    def handle(self) -> int:
        """The stream as TensorRT takes it."""
        return int(self.stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        """A function's result. Raises BackendError with the error's name."""
        code, *values = getattr(self._cuda, name)(*arguments)
        if int(code) != 0:
            raise BackendError(f"cuda: {name} failed, {self._describe(code)}")
        return values[0] if values else None

    def _describe(self, code: Any) -> str:
        """An error's name and meaning, in CUDA's words."""
        words = [getattr(self._cuda, f"cudaGetError{part}")(code)[1] for part in ("Name", "String")]
        name, text = (w.decode() if isinstance(w, bytes) else str(w) for w in words)
        return f"{name} ({text})"

    def allocate(self, size: int, *, zero: bool = False) -> int:
        """The address of new memory on the device."""
        size = max(size, ALIGNMENT)
        try:
            address = int(self._call("cudaMalloc", size))
        except BackendError as error:
            raise BackendError(
                f"{self.name}: {size / MEGABYTE:.0f} MB do not fit its memory ({error}); "
                f"{self._remedy}"
            ) from error
        self._held.memory.append(address)
        if zero:
            self.clear(address, size)
        return address

    def clear(self, address: int, size: int) -> None:
        """Fill memory of the device with zeros."""
        self._call("cudaMemsetAsync", address, 0, size, self.stream)

    def free(self, address: int) -> None:
        """Give allocated memory back, after waiting for all that was asked for."""
        self.wait()
        self._held.memory.remove(address)
        self._call("cudaFree", address)

    def pinned(self, size: int) -> Bytes:
        """Memory of the host that the device copies from and to on its own; it outlives neither."""
        address = int(self._call("cudaHostAlloc", size, self._cuda.cudaHostAllocDefault))
        self._held.pinned.append(address)
        return np.asarray(_Pinned(self, address, size))

    def send(self, target: int, source: Bytes) -> None:
        """Copy pinned memory to the device, which reads it at any time before `wait` returns."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        size = source.nbytes
        self._call("cudaMemcpyAsync", target, source.ctypes.data, size, kind, self.stream)

    def fetch(self, target: Bytes, source: int) -> None:
        """Copy from the device to pinned memory; what arrives is there after `wait`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        size = target.nbytes
        self._call("cudaMemcpyAsync", target.ctypes.data, source, size, kind, self.stream)

    def read(self, address: int, size: int) -> Bytes:
        """A copy of so many bytes of the device, after all that was asked for."""
        values = np.empty(size, dtype=np.uint8)
        self.wait()
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpy", values.ctypes.data, address, size, kind)
        return values

    def write(self, address: int, values: NDArray[Any]) -> None:
        """Copy an array to the device, after all that was asked for."""
        flat = np.ascontiguousarray(values)
        self.wait()
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpy", address, flat.ctypes.data, flat.nbytes, kind)

    def copy_rows(
        self,
        target: int,
        source: int,
        block: Block,
        rows: NDArray[np.int64],
        width: int,
        *,
        source_block: Block | None = None,
    ) -> None:
        """Row i of every tensor takes over the first `width` bytes of the lines of row `rows[i]`.

        One copy of three axes for rows that follow each other in both: bytes of a line, lines,
        tensors. `source_block` is how the source lies, where that is otherwise: as many tensors
        and lines of a row.
        """
        cuda, old_block = self._cuda, source_block or block
        if not width:
            return
        for row, old, count in _runs(rows.tolist()):
            copy = cuda.cudaMemcpy3DParms()
            copy.srcPtr, copy.dstPtr = (
                cuda.make_cudaPitchedPtr(
                    base + index * its.row_size, its.pitch, its.pitch, its.lines
                )
                for base, index, its in ((source, old, old_block), (target, row, block))
            )
            copy.extent = cuda.make_cudaExtent(width, count * block.row_lines, block.tensors)
            copy.kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
            self._call("cudaMemcpy3DAsync", copy, self.stream)

    def wait(self) -> None:
        """Until everything that was asked for is done."""
        self._call("cudaStreamSynchronize", self.stream)
        self.waits += 1

    def capture(self, work: Callable[[], bool], *, alone: bool = False) -> Any | None:
        """What `work` enqueues as a graph that can be launched again; None where it cannot be.

        With `alone` it may have no part that the host does or whose memory is the host's: who
        enqueued it may have freed that by the next launch.
        """
        cuda, stream = self._cuda, self.stream
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        done = False
        try:
            done = work()
        finally:
            code, graph = cuda.cudaStreamEndCapture(stream)
        executable = None
        if int(code) == 0:
            if done and not (alone and self._needs_host(graph)):
                code, executable = cuda.cudaGraphInstantiate(graph, 0)
            cuda.cudaGraphDestroy(graph)
        if int(code) != 0 or executable is None:
            cuda.cudaGetLastError()  # a failed recording leaves its error for the next call
            return None
        self._held.graphs.append(executable)
        return executable

    def _needs_host(self, graph: Any) -> bool:
        """Whether a captured graph has nodes of other kinds than those that the device does."""
        cuda = self._cuda
        kinds, inside = cuda.cudaGraphNodeType, cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        on_device = {getattr(kinds, f"cudaGraphNodeType{name}") for name in ON_DEVICE}
        count = cuda.cudaGraphGetNodes(graph, 0)[-1]
        for node in cuda.cudaGraphGetNodes(graph, count)[1]:
            kind = self._call("cudaGraphNodeGetType", node)
            if kind == kinds.cudaGraphNodeTypeMemcpy:
                if self._call("cudaGraphMemcpyNodeGetParams", node).kind != inside:
                    return True
            elif kind not in on_device:
                return True
        return False

    def launch(self, graph: Any) -> None:
        """Enqueue everything that was captured."""
        self._call("cudaGraphLaunch", graph, self.stream)

    def discard(self, graph: Any) -> None:
        """Give a graph back, after waiting for it."""
        self.wait()
        self._held.graphs.remove(graph)
        self._call("cudaGraphExecDestroy", graph)


def _runs(rows: list[int]) -> Iterator[tuple[int, int, int]]:
    """(place, row, count) of the rows that follow each other."""
    first = 0
    for place in range(1, len(rows) + 1):
        if place == len(rows) or rows[place] != rows[place - 1] + 1:
            yield first, rows[first], place - first
            first = place


class _Pinned:
    """Tells numpy about pinned memory, and keeps its device while an array of it lives."""

    def __init__(self, device: Device, address: int, size: int) -> None:
        self.device = device
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (size,),
            "data": (address, False),
        }


class _Parts:
    """Small tensors behind each other: parts of pinned memory, and the same on the device."""

    def __init__(self, device: Device, sizes: Mapping[str, int]) -> None:
        self._device = device
        self._offsets: dict[str, int] = {}
        total = 0
        for name, size in sizes.items():
            self._offsets[name] = total
            total += rounded_up(size, ALIGNMENT)
        self._host = device.pinned(total)
        self._address = device.allocate(total)

    def address(self, name: str) -> int:
        """Where a part lies on the device."""
        return self._address + self._offsets[name]


class Download(_Parts):
    """Small outputs, which come to the host in one copy."""

    def fetch(self) -> None:
        """Copy all parts; they are there after `Device.wait`."""
        self._device.fetch(self._host, self._address)

    def read(self, name: str, dtype: type[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """What was fetched of a part, a new array."""
        start, size = self._offsets[name], math.prod(shape) * np.dtype(dtype).itemsize
        fetched: NDArray[Any] = self._host[start : start + size].view(dtype).reshape(shape)
        return fetched.copy()


class Upload(_Parts):
    """Small inputs, which go to the device in one copy."""

    def __init__(self, device: Device, sizes: Mapping[str, int]) -> None:
        super().__init__(device, sizes)
        self._sent_at = -1

    def send(self, **parts: NDArray[Any]) -> None:
        """Copy the parts to the device, in one piece up to the end of the last."""
        if self._sent_at == self._device.waits:
            self._device.wait()  # the last copy may not have read its source yet
        end = 0
        for name, values in parts.items():
            start = self._offsets[name]
            end = max(end, start + values.nbytes)
            flat = np.ascontiguousarray(values).reshape(-1)
            self._host[start : start + values.nbytes] = flat.view(np.uint8)
        self._device.send(self._address, self._host[:end])
        self._sent_at = self._device.waits
