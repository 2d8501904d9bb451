"""What this machine has for the tests that need a GPU, and a report of them to paste."""

from __future__ import annotations

import importlib.metadata
import platform

import pytest
import tiny_models

from seq2edge.bundle import Bundle
from seq2edge.errors import BackendError
from seq2edge.export.pipeline import export_checkpoint
from seq2edge.runtime.backends.device import Device, import_cuda
from seq2edge.runtime.backends.onnxruntime import check_device, import_onnxruntime
from seq2edge.runtime.backends.tensorrt_library import import_tensorrt

# Heads of 64, which fused kernels exist for; the others' are of 8.
SIZES = {
    "bart": {"d_model": 256},
    "t5": {"d_model": 256, "d_kv": 64},
    "whisper": {"d_model": 256},
    "llama": {"hidden_size": 256, "head_dim": 64},
    "bert": {"hidden_size": 256},
}


def device_and_library():
    """Both, for engines. Raises BackendError with what is missing."""
    trt = import_tensorrt()
    return Device(import_cuda()), trt


@pytest.fixture(scope="session")
def gpu():
    """The device and the library, or a skip with the reason."""
    try:
        return device_and_library()
    except BackendError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def cuda():
    """ONNX Runtime's CUDA provider and a device for it, or a skip with the reason."""
    try:
        check_device(import_onnxruntime(), "cuda")
        return Device(import_cuda())
    except BackendError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    """`bundles(name)` exports (once) that tiny model, or skips where its graphs cannot be tried.

    So a sliding window, whose graphs for the CPU need a newer ONNX Runtime than there is for CUDA.
    """
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            tiny_models.save(name, folder / "checkpoint", **SIZES.get(name, {}))
            try:
                export_checkpoint(folder / "checkpoint", folder / "bundle", original=False)
            except BackendError as error:
                pytest.skip(str(error))
            made[name] = Bundle.open(folder / "bundle")
        return made[name]

    return get


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
        device = Device(import_cuda())
        driver = f"{device.driver // 1000}.{device.driver % 1000 // 10}"
        write(f"device   {device.name}, compute capability {device.capability}")
        write(f"driver   CUDA {driver}")
    except BackendError as error:
        write(f"device   none: {error}")
    try:
        trt = import_tensorrt()
        write(f"library  {trt.__name__} {trt.__version__}")
    except BackendError as error:
        write(f"library  none: {error}")
    try:
        providers = import_onnxruntime().get_available_providers()
        write(f"onnxruntime was built with {', '.join(providers)}")
    except BackendError as error:
        write(f"onnxruntime none: {error}")
    versions = (f"{name} {_version(name)}" for name in ("cuda-bindings", "onnxruntime", "seq2edge"))
    write(f"versions {', '.join(versions)}, Python {platform.python_version()}")
    write(f"machine  {platform.machine()}, {platform.platform()}")
    write(f"tests    {counts['passed']} passed, {counts['failed']} failed, {skipped} skipped")


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
