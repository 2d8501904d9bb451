"""The diagnosis tells what is there, and what to install for what is not."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

import onnxruntime
import pytest

from seq2edge.runtime import diagnosis


def findings():
    """By subject."""
    return {finding.subject: finding for finding in diagnosis.diagnose()}


def test_what_is_here_is_found_with_its_version():
    """Python, ONNX Runtime and the libraries of the export."""
    found = findings()
    assert found["python"].works
    assert platform.python_version() in found["python"].detail
    assert found["onnxruntime"].detail.startswith(onnxruntime.__version__)
    assert found["cpu backend"].works
    assert found["torch"].detail == importlib.metadata.version("torch")


def test_a_missing_library_comes_with_its_remedy(monkeypatch):
    """The extra to install, by name."""
    monkeypatch.setattr(diagnosis, "EXPORT", ("no-such-package",))
    missing = findings()["no-such-package"]
    assert not missing.works
    assert "pip install 'seq2edge[export,cpu]'" in missing.detail
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    missing = findings()["onnxruntime"]
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
    monkeypatch.setattr(diagnosis, "_driver_error", lambda: driver)
    found = findings()
    assert (found["cuda backend"].works, found["cuda backend"].detail) == (works, detail)
    assert found["nvidia driver"].works == (driver is None)
    assert found["cpu backend"].works == ("CPUExecutionProvider" in providers)


def test_old_versions_run_the_specialised_graphs_alone(monkeypatch):
    """JetPack 6's newest, told apart from the desktop's."""
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
    assert "specialised graphs" in findings()["onnxruntime"].detail
    monkeypatch.setattr(onnxruntime, "__version__", "1.32.0")
    assert findings()["onnxruntime"].detail == "1.32.0, runs all graphs"
