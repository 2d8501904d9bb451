"""The diagnosis tells what is there, and what to install for what is not."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import types

import fake_cuda
import onnxruntime
import pytest

from seq2edge.errors import BackendError
from seq2edge.runtime.backends import device, diagnosis


def components():
    """By subject."""
    return {component.subject: component for component in diagnosis.diagnose()}


def test_what_is_here_is_found_with_its_version():
    """Python, ONNX Runtime and the libraries of the export."""
    found = components()
    assert found["python"].works
    assert platform.python_version() in found["python"].detail
    assert found["onnxruntime"].detail.startswith(onnxruntime.__version__)
    assert found["cpu backend"].works
    for name in ("torch", "cuda-bindings"):
        assert found[name].detail == importlib.metadata.version(name)


def test_a_missing_library_comes_with_its_remedy(monkeypatch):
    """The extra to install, by name."""
    monkeypatch.setattr(diagnosis, "EXPORT", ("no-such-package",))
    missing = components()["no-such-package"]
    assert not missing.works
    assert "pip install 'seq2edge[export,cpu]'" in missing.detail
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    missing = components()["onnxruntime"]
    assert not missing.works
    assert "pip install 'seq2edge[cpu]' or 'seq2edge[cuda]'" in missing.detail


@pytest.mark.parametrize(
    ("providers", "driver", "works", "detail"),
    [
        (["CUDAExecutionProvider"], None, True, "compiled in"),
        (["CUDAExecutionProvider"], "libcuda.so.1: no", False, "compiled in; no driver"),
        (["CPUExecutionProvider"], None, False, "not compiled in; pip install 'seq2edge[cuda]'"),
    ],
)
def test_cuda_needs_a_provider_and_a_driver(monkeypatch, providers, driver, works, detail):
    """A provider that is compiled in says nothing about the machine."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr(diagnosis, "driver_error", lambda: driver)
    found = components()
    assert (found["cuda backend"].works, found["cuda backend"].detail) == (works, detail)
    assert found["nvidia driver"].works == (driver is None)
    assert found["cpu backend"].works == ("CPUExecutionProvider" in providers)


def test_old_versions_run_the_specialised_graphs_alone(monkeypatch):
    """JetPack 6's newest, told apart from the desktop's."""
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
    assert "specialised graphs" in components()["onnxruntime"].detail
    monkeypatch.setattr(onnxruntime, "__version__", "1.32.0")
    assert components()["onnxruntime"].detail == "1.32.0, runs all graphs"


def test_engines_need_a_library_a_driver_and_a_device(monkeypatch):
    """Each that is missing is named; with all of them the device is."""
    trt = types.SimpleNamespace(__name__="tensorrt", __version__="10.3.0")
    monkeypatch.setattr(diagnosis, "import_tensorrt", lambda: trt)
    monkeypatch.setattr(diagnosis, "import_cuda", fake_cuda.FakeCuda)
    found = components()
    assert (found["tensorrt"].works, found["tensorrt"].detail) == (True, "tensorrt 10.3.0")
    assert found["tensorrt backend"].works
    assert found["tensorrt backend"].detail == "runs engines on Fake GPU, compute capability 8.6"
    monkeypatch.setattr(diagnosis, "import_cuda", lambda: fake_cuda.FakeCuda(devices=0))
    found = components()["tensorrt backend"]
    assert not found.works
    assert "cudaErrorNoDevice" in found.detail


@pytest.mark.parametrize(("capability", "works"), [("9.0", False), ("8.6", True), ("12.1", True)])
def test_a_device_that_rtx_does_not_know_runs_no_engines(monkeypatch, capability, works):
    """As an H100, which TensorRT-RTX refuses; TensorRT itself is not asked."""
    gpu = types.SimpleNamespace(name="H100", capability=capability)
    monkeypatch.setattr(diagnosis, "import_cuda", lambda: None)
    monkeypatch.setattr(diagnosis, "Device", lambda _: gpu)
    for library in ("tensorrt_rtx", "tensorrt"):
        trt = types.SimpleNamespace(__name__=library, __version__="1.7.1")
        monkeypatch.setattr(diagnosis, "import_tensorrt", lambda trt=trt: trt)
        backend = components()["tensorrt backend"]
        assert backend.works == (works or library == "tensorrt")
        assert ("tensorrt_rtx runs no engines on H100" in backend.detail) != backend.works


def test_what_engines_lack_comes_with_its_remedy(monkeypatch):
    """Neither library nor driver, as on a plain machine."""

    def missing(*_):
        raise BackendError("tensorrt: not installed; install seq2edge[rtx]")

    monkeypatch.setattr(diagnosis, "import_tensorrt", missing)
    monkeypatch.setattr(device, "driver_error", lambda: "libcuda.so.1: no")
    found = components()
    assert not found["tensorrt"].works
    assert "install seq2edge[rtx]" in found["tensorrt"].detail
    assert found["tensorrt backend"].detail.startswith("no library; cuda: no NVIDIA driver")
