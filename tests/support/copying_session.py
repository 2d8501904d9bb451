"""ONNX Runtime as it is with a device: inputs of the host are copied when they are bound.

The CPU does the work. Only what differs from it is doubled: what a session says of itself, where
buffers may lie, and that a bound array's later changes are not seen.
"""

from __future__ import annotations

import types

import numpy as np
import onnxruntime

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class CopyingBinding:
    """A binding that takes host inputs as they are when they are bound."""

    def __init__(self, binding):
        self._binding = binding
        self._copies = {}
        self.synchronized = 0

    def bind_input(self, name, device, index, kind, shape, address):
        """A copy of the array at the address."""
        assert device == "cpu"
        count = int(np.prod(shape))
        memory = (np.ctypeslib.as_ctypes_type(kind) * count).from_address(address)
        copy = self._copies[name] = np.ctypeslib.as_array(memory).reshape(shape).copy()
        self._binding.bind_input(name, "cpu", index, kind, copy.shape, copy.ctypes.data)

    def bind_cpu_input(self, name, array):
        """A copy of the array."""
        self._copies[name] = array.copy()
        self._binding.bind_cpu_input(name, self._copies[name])

    def bind_output(self, name, device="cpu", *where):
        """Outputs that stay on the device lie in the host's memory here."""
        self._binding.bind_output(name, "cpu", *where)

    def synchronize_outputs(self):
        """Nothing to wait for; that it was asked is counted."""
        self.synchronized += 1
        self._binding.synchronize_outputs()

    def __getattr__(self, name):
        return getattr(self._binding, name)


class CopyingSession:
    """A session on the CPU that says it is on the device."""

    def __init__(self, path, options, providers):
        self.asked = providers
        self.options = options
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self.bindings = []

    def get_providers(self):
        """As if the device's libraries had loaded."""
        return [CUDA, CPU]

    def io_binding(self):
        """See CopyingBinding."""
        self.bindings.append(CopyingBinding(self._session.io_binding()))
        return self.bindings[-1]

    def run_with_iobinding(self, binding):
        """With what the double holds."""
        self._session.run_with_iobinding(binding._binding)

    def __getattr__(self, name):
        return getattr(self._session, name)


class DeviceValue:
    """Memory of the device: seen by copies alone."""

    @staticmethod
    def ortvalue_from_shape_and_type(shape, kind, device, index):
        """In the host's memory, wherever it was asked for."""
        assert device == "cuda"
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind, "cpu", index)


def library(version="1.31.1"):
    """What is to be imported as onnxruntime."""
    return types.SimpleNamespace(
        __version__=version,
        get_available_providers=lambda: [CUDA, CPU],
        SessionOptions=onnxruntime.SessionOptions,
        InferenceSession=CopyingSession,
        OrtValue=DeviceValue,
    )
