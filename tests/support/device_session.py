"""ONNX Runtime as it is with a CUDA device, over the strict double of CUDA's runtime.

A session computes on the CPU, when its stream comes to it: it reads and writes what was bound by
its address then, in the double's memory, which knows what may be touched. A host's input is copied
when it is bound.
"""

from __future__ import annotations

import types

import fake_cuda
import numpy as np
import onnxruntime

from seq2edge.runtime import backend as backend_choice
from seq2edge.runtime.backends import onnxruntime as backend_module

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
NO_WAIT = "disable_synchronize_execution_providers"


class DeviceValue:
    """A tensor in the double's memory."""

    def __init__(self, cuda, array=None, *, shape=None, kind=None):
        self._cuda, self._kind = cuda, np.dtype(kind or array.dtype)
        self._shape = tuple(shape if array is None else array.shape)
        code, self._address = cuda.cudaMalloc(max(self._bytes, 1))
        assert code == fake_cuda.SUCCESS
        if array is not None:
            self._found()[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    @property
    def _bytes(self):
        return int(np.prod(self._shape)) * self._kind.itemsize

    def _found(self):
        return self._cuda.find(self._address, self._bytes)

    def __del__(self):
        self._cuda.cudaFree(self._address)

    def place(self):
        """Its type, shape and address."""
        return self._kind, self._shape, self._address

    def data_ptr(self):
        """Its address."""
        return self._address

    def shape(self):
        """Its sizes."""
        return list(self._shape)

    def numpy(self):
        """A copy, which waits for nothing."""
        return self._found().view(self._kind).reshape(self._shape).copy()


class Binding:
    """What a call reads and writes, by address."""

    def __init__(self, cuda):
        self._cuda = cuda
        self.inputs, self.outputs, self.made = {}, {}, {}
        self._kept = []

    def bind_input(self, name, device, index, kind, shape, address):
        """Memory of the device."""
        assert (device, index) == ("cuda", 0)
        self.inputs[name] = (np.dtype(kind), tuple(shape), int(address))

    def bind_cpu_input(self, name, array):
        """A copy of the array."""
        self.inputs[name] = array.copy()

    def bind_ortvalue_input(self, name, value):
        """A tensor of the device, kept."""
        self._kept.append(value)
        self.inputs[name] = value.place()

    def bind_ortvalue_output(self, name, value):
        """A tensor of the device, kept."""
        self._kept.append(value)
        self.outputs[name] = value.place()

    def bind_output(self, name, device="cpu", index=0, kind=None, shape=None, address=None):
        """Memory of the device, or wherever the library takes some there."""
        assert (device, index) == ("cuda", 0)
        self.outputs[name] = None if kind is None else (np.dtype(kind), tuple(shape), int(address))

    def get_outputs(self):
        """What the library took memory for."""
        return [self.made[name] for name in self.outputs]


def read(cuda, bound):
    """The numbers of something that is bound."""
    if isinstance(bound, np.ndarray):
        return bound
    kind, shape, address = bound
    size = int(np.prod(shape)) * kind.itemsize
    return cuda.find(address, size).view(kind).reshape(shape).copy()


def write(cuda, bound, array):
    """Let an output be this."""
    kind, shape, address = bound
    assert (array.dtype, array.shape) == (kind, shape)
    cuda.find(address, array.nbytes)[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)


class DeviceSession:
    """A session of the device."""

    def __init__(self, cuda, path, options, providers):
        self._cuda = cuda
        self.asked, self.options = providers, options
        self._session = onnxruntime.InferenceSession(path, options, providers=[CPU])
        self._stream = int(providers[0][1]["user_compute_stream"])

    def get_providers(self):
        """As if the device's libraries had loaded."""
        return [CUDA, CPU]

    def io_binding(self):
        """See Binding."""
        return Binding(self._cuda)

    def run_with_iobinding(self, binding, run_options=None):
        """Enqueued; done at once unless the options say not to wait."""
        # A recording knows addresses; whether they are alive is seen at every launch.
        inputs, outputs, made, cuda = dict(binding.inputs), dict(binding.outputs), {}, self._cuda
        binding.made = made

        def work():
            feed = {name: read(cuda, bound) for name, bound in inputs.items()}
            for name, array in zip(outputs, self._session.run([*outputs], feed), strict=True):
                if outputs[name] is None:
                    made[name] = DeviceValue(cuda, array)
                else:
                    write(cuda, outputs[name], array)

        self._cuda.enqueue(self._stream, work)
        if run_options is None or run_options.get_run_config_entry(NO_WAIT) != "1":
            self._cuda.cudaStreamSynchronize(self._cuda.streams[self._stream])

    def __getattr__(self, name):
        return getattr(self._session, name)


def library(cuda, version="1.31.1"):
    """What is to be imported as onnxruntime, on this double of CUDA."""

    def from_numpy(array, device, index):
        assert (device, index) == ("cuda", 0)
        return DeviceValue(cuda, array)

    def from_shape(shape, kind, device, index):
        assert (device, index) == ("cuda", 0)
        return DeviceValue(cuda, shape=shape, kind=kind)

    def session(path, options, providers):
        ((provider, _),) = providers
        if provider == CPU:
            return onnxruntime.InferenceSession(path, options, providers=[CPU])
        return DeviceSession(cuda, path, options, providers)

    return types.SimpleNamespace(
        __version__=version,
        get_available_providers=lambda: [CUDA, CPU],
        SessionOptions=onnxruntime.SessionOptions,
        RunOptions=onnxruntime.RunOptions,
        InferenceSession=session,
        OrtValue=types.SimpleNamespace(
            ortvalue_from_numpy=from_numpy, ortvalue_from_shape_and_type=from_shape
        ),
    )


def install(monkeypatch, cuda):
    """Let the backend have both doubles."""
    monkeypatch.setattr(backend_module, "import_onnxruntime", lambda: library(cuda))
    monkeypatch.setattr(backend_module, "import_cuda", lambda: cuda)
    monkeypatch.setattr(backend_choice.ctypes, "CDLL", lambda name: name)
