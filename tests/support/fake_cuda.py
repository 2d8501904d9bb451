"""A CUDA runtime without a GPU, strict where the real one is undefined.

The functions of `cuda.bindings.runtime` that the project calls, over host memory. Work on a stream
is queued and done only when the stream is waited for, so that memory that is freed, overwritten or
read too early is noticed: new and freed memory is filled with what is no number (as an integer, one
that is no token and no length), and every access must lie inside one living allocation. Types,
enumerations and structures are the real ones.
"""

from __future__ import annotations

import bisect
import types

import numpy as np
from cuda.bindings import runtime as real

ALIGNMENT = 256
SUCCESS = real.cudaError_t.cudaSuccess
INVALID = real.cudaError_t.cudaErrorInvalidValue
ILLEGAL = real.cudaError_t.cudaErrorIllegalAddress
CAPTURED = real.cudaError_t.cudaErrorStreamCaptureUnsupported
FULL = real.cudaError_t.cudaErrorMemoryAllocation
POISON = np.array([0xFE, 0xFF, 0xFF, 0xFF], dtype=np.uint8)  # NaN in every float type


class IllegalAddressError(Exception):
    """An access outside living memory of its kind."""


class Allocation:
    """Some aligned memory of the host that plays the device's, or pinned memory."""

    def __init__(self, size, kind):
        self.kind, self.size, self.alive = kind, size, True
        self._raw = np.empty(size + ALIGNMENT, dtype=np.uint8)
        shift = -self._raw.ctypes.data % ALIGNMENT
        self.bytes = self._raw[shift : shift + size]
        self.address = self.bytes.ctypes.data
        self.poison()

    def poison(self):
        """Nothing that was there can be used."""
        self.bytes[:] = np.resize(POISON, self.size)


class Stream:
    """Work in order; while it is captured, work goes into a graph instead."""

    def __init__(self):
        self.queue = []
        self.capturing = None
        self.broken = False  # something was done that cannot be captured
        self.alive = True

    def __int__(self):
        return id(self)


class FakeCuda:
    """One device. `memory` bytes of it may be allocated; `capturable` is whether graphs work."""

    cudaError_t = real.cudaError_t
    cudaMemcpyKind = real.cudaMemcpyKind
    cudaStreamCaptureMode = real.cudaStreamCaptureMode
    cudaGraphNodeType = real.cudaGraphNodeType
    cudaMemcpy3DParms = real.cudaMemcpy3DParms
    cudaHostAllocDefault = real.cudaHostAllocDefault
    cudaStreamNonBlocking = real.cudaStreamNonBlocking
    make_cudaPitchedPtr = staticmethod(real.make_cudaPitchedPtr)
    make_cudaExtent = staticmethod(real.make_cudaExtent)

    def __init__(self, *, devices=1, memory=2**31, capturable=True, driver=13000):
        self.devices, self.memory, self.capturable, self.driver = (
            devices,
            memory,
            capturable,
            driver,
        )
        self.allocations = []  # by address, dead ones too: their memory is never used again
        self.streams = {}
        self.calls = []
        self.graphs = []
        self.host_nodes = []  # what recordings have beside their work: calls, or kinds of copies
        self.copied = []  # (direction, bytes) of every copy with one end on the host
        self.failed = SUCCESS

    # What the fake's TensorRT asks.

    def find(self, address, size, kinds=("device",)):
        """The bytes of living memory. Raises IllegalAddressError for any other."""
        place = bisect.bisect_right([a.address for a in self.allocations], int(address)) - 1
        found = self.allocations[place] if place >= 0 else None
        if found is None or int(address) + size > found.address + found.size:
            raise IllegalAddressError(f"{size} bytes at {int(address):#x} are not allocated")
        if not found.alive:
            raise IllegalAddressError(f"{size} bytes at {int(address):#x} were freed")
        if found.kind not in kinds:
            raise IllegalAddressError(f"{int(address):#x} is {found.kind} memory, wanted {kinds}")
        start = int(address) - found.address
        return found.bytes[start : start + size]

    def enqueue(self, handle, work):
        """Add work to a stream by its handle, or to the graph that is captured there."""
        stream = self.streams[int(handle)]
        assert stream.alive, "work on a destroyed stream"
        (stream.queue if stream.capturing is None else stream.capturing).append(work)

    def living(self, kind):
        """Bytes of that kind that are not freed."""
        return sum(a.size for a in self.allocations if a.alive and a.kind == kind)

    # What the project calls.

    def _count(self, name):
        self.calls.append(name)
        return any(stream.capturing is not None for stream in self.streams.values())

    def _allocate(self, size, kind):
        if size <= 0 or (kind == "device" and self.living(kind) + size > self.memory):
            return FULL, None
        made = Allocation(size, kind)
        bisect.insort(self.allocations, made, key=lambda allocation: allocation.address)
        return SUCCESS, made.address

    def _free(self, address, kind):
        for allocation in self.allocations:
            if allocation.address == int(address) and allocation.alive and allocation.kind == kind:
                allocation.alive = False
                allocation.poison()
                return (SUCCESS,)
        return (INVALID,)

    def cudaGetDeviceCount(self):
        return (SUCCESS, self.devices) if self.devices else (real.cudaError_t.cudaErrorNoDevice, 0)

    def cudaGetDevice(self):
        return SUCCESS, 0

    def cudaGetDeviceProperties(self, device):
        return SUCCESS, types.SimpleNamespace(name=b"Fake GPU", major=8, minor=6)

    def cudaDriverGetVersion(self):
        return SUCCESS, self.driver

    def cudaGetErrorName(self, error):
        return SUCCESS, error.name.encode()

    def cudaGetErrorString(self, error):
        return SUCCESS, b"as the fake says"

    def cudaGetLastError(self):
        failed, self.failed = self.failed, SUCCESS
        return (failed,)

    def cudaMalloc(self, size):
        if self._count("cudaMalloc"):
            return CAPTURED, None
        return self._allocate(size, "device")

    def cudaHostAlloc(self, size, flags):
        assert flags == real.cudaHostAllocDefault
        return self._allocate(size, "pinned")

    def cudaFree(self, address):
        self._count("cudaFree")
        return self._free(address, "device")

    def cudaFreeHost(self, address):
        return self._free(address, "pinned")

    def cudaStreamCreateWithFlags(self, flags):
        assert flags == real.cudaStreamNonBlocking
        stream = Stream()
        self.streams[int(stream)] = stream
        return SUCCESS, stream

    def cudaStreamDestroy(self, stream):
        stream.alive = False
        return (SUCCESS,)

    def cudaStreamSynchronize(self, stream):
        self._count("cudaStreamSynchronize")
        assert stream.alive, "a destroyed stream is waited for"
        if stream.capturing is not None:
            stream.broken = True
            return (CAPTURED,)
        queue, stream.queue = stream.queue, []
        for work in queue:
            work()
        return (SUCCESS,)

    def cudaMemsetAsync(self, address, value, size, stream):
        def work():
            self.find(address, size)[:] = value

        self.enqueue(stream, work)
        return (SUCCESS,)

    def cudaMemcpy(self, target, source, size, kind):
        """Between the device and any memory of the host, at once."""
        if self._count("cudaMemcpy"):
            return (CAPTURED,)
        kinds = real.cudaMemcpyKind
        host = target if kind == kinds.cudaMemcpyDeviceToHost else source
        array = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_uint8 * size).from_address(int(host)))
        if kind == kinds.cudaMemcpyDeviceToHost:
            array[:] = self.find(source, size)
        else:
            assert kind == kinds.cudaMemcpyHostToDevice
            self.find(target, size)[:] = array
        return (SUCCESS,)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        self._count("cudaMemcpyAsync")
        to, of = {
            real.cudaMemcpyKind.cudaMemcpyHostToDevice: ("device", "pinned"),
            real.cudaMemcpyKind.cudaMemcpyDeviceToHost: ("pinned", "device"),
            real.cudaMemcpyKind.cudaMemcpyDeviceToDevice: ("device", "device"),
        }[kind]

        def work():
            self.find(target, size, (to,))[:] = self.find(source, size, (of,))

        self.copied.append((f"{of} to {to}", size))
        self.enqueue(stream, work)
        return (SUCCESS,)

    def cudaMemcpy3DAsync(self, copy, stream):
        self._count("cudaMemcpy3DAsync")
        assert copy.kind == real.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        extent = (copy.extent.width, copy.extent.height, copy.extent.depth)
        ends = [(int(p.ptr), p.pitch, p.ysize) for p in (copy.dstPtr, copy.srcPtr)]
        if not all(extent) or any(p < extent[0] or y < extent[1] for _, p, y in ends):
            return (INVALID,)

        def work():
            for depth in range(extent[2]):
                for line in range(extent[1]):
                    target, source = (
                        self.find(start + (depth * height + line) * pitch, extent[0])
                        for start, pitch, height in ends
                    )
                    if np.shares_memory(target, source):
                        raise IllegalAddressError("source and target of a copy overlap")
                    target[:] = source

        self.enqueue(stream, work)
        return (SUCCESS,)

    def cudaStreamBeginCapture(self, stream, mode):
        self._count("cudaStreamBeginCapture")
        assert mode == real.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        assert stream.capturing is None
        stream.capturing, stream.broken = [], not self.capturable
        return (SUCCESS,)

    def cudaStreamEndCapture(self, stream):
        work, stream.capturing = stream.capturing, None
        if stream.broken:
            self.failed = real.cudaError_t.cudaErrorStreamCaptureInvalidated
            return self.failed, None
        return SUCCESS, work

    def cudaGraphGetNodes(self, graph, count):
        nodes = [*graph, *self.host_nodes]
        return SUCCESS, nodes[:count], [], len(nodes)

    def cudaGraphNodeGetType(self, node):
        kinds = real.cudaGraphNodeType
        if node not in self.host_nodes:
            return SUCCESS, kinds.cudaGraphNodeTypeKernel
        copies = isinstance(node, real.cudaMemcpyKind)
        return SUCCESS, kinds.cudaGraphNodeTypeMemcpy if copies else kinds.cudaGraphNodeTypeHost

    def cudaGraphMemcpyNodeGetParams(self, node):
        return SUCCESS, types.SimpleNamespace(kind=node)

    def cudaGraphInstantiate(self, graph, flags):
        made = types.SimpleNamespace(work=list(graph), alive=True)
        self.graphs.append(made)
        return SUCCESS, made

    def cudaGraphDestroy(self, graph):
        return (SUCCESS,)

    def cudaGraphLaunch(self, graph, stream):
        self._count("cudaGraphLaunch")

        def work():
            assert graph.alive, "a graph was destroyed before it was done"
            for part in graph.work:
                part()

        self.enqueue(stream, work)
        return (SUCCESS,)

    def cudaGraphExecDestroy(self, graph):
        assert graph.alive
        graph.alive = False
        return (SUCCESS,)
