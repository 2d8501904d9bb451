"""What this machine has for the tests that need a GPU, and a report of them to paste."""

from __future__ import annotations

import importlib.metadata
import platform

import pytest

from seq2edge.errors import BackendError
from seq2edge.runtime.backends.device import Device, import_cuda
from seq2edge.runtime.backends.tensorrt_library import import_tensorrt


def found_here():
    """Device and library. Raises BackendError with what is missing."""
    trt = import_tensorrt()
    return Device(import_cuda()), trt


@pytest.fixture(scope="session")
def gpu():
    """The device and the library, or a skip with the reason."""
    try:
        return found_here()
    except BackendError as error:
        pytest.skip(str(error))


def pytest_terminal_summary(terminalreporter, config):
    """`make test-gpu` ends with the lines that an issue needs."""
    if config.getoption("-m") != "gpu":
        return
    write = terminalreporter.write_line
    counts = {kind: len(terminalreporter.stats.get(kind, ())) for kind in ("passed", "failed")}
    skipped = len(terminalreporter.stats.get("skipped", ()))
    write("")
    write("seq2edge GPU report")
    try:
        device, trt = found_here()
        driver = f"{device.driver // 1000}.{device.driver % 1000 // 10}"
        write(f"device   {device.name}, compute capability {device.capability}")
        write(f"driver   CUDA {driver}")
        write(f"library  {trt.__name__} {trt.__version__}")
    except BackendError as error:
        write(f"device   none: {error}")
    versions = (f"{name} {_version(name)}" for name in ("cuda-bindings", "onnxruntime", "seq2edge"))
    write(f"versions {', '.join(versions)}, Python {platform.python_version()}")
    write(f"machine  {platform.machine()}, {platform.platform()}")
    write(f"tests    {counts['passed']} passed, {counts['failed']} failed, {skipped} skipped")


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
