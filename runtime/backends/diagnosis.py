"""What this machine has: libraries, devices, and what to install for the rest."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import sys

from seq2edge.errors import BackendError
from seq2edge.runtime.backends.device import Device, driver_error, import_cuda
from seq2edge.runtime.backends.tensorrt_library import import_tensorrt

EXPORT = ("torch", "onnx", "onnxscript", "onnx-ir", "safetensors", "transformers", "sentencepiece")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the diagnosis."""

    subject: str
    works: bool
    detail: str


def diagnose() -> list[Finding]:
    """Everything worth knowing before a bundle is run or made here.

    Imports onnxruntime and, where it is installed, TensorRT, to see whether they load.
    """
    return [
        Finding(
            subject="python",
            works=sys.version_info >= (3, 10),
            detail=f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores",
        ),
        *_onnxruntime(),
        _cuda_driver(),
        *_tensorrt(),
        _package("cuda-bindings", "to run engines: pip install 'seq2edge[rtx]'"),
        *(_package(name) for name in EXPORT),
    ]


def _onnxruntime() -> list[Finding]:
    try:
        import onnxruntime
    except ImportError as error:
        detail = f"{error}; to run bundles: pip install 'seq2edge[cpu]' or 'seq2edge[cuda]'"
        return [Finding(subject="onnxruntime", works=False, detail=detail)]
    version = str(onnxruntime.__version__)
    compiled = onnxruntime.get_available_providers()
    new = tuple(int(part) for part in version.split(".")[:2]) >= (1, 31)
    forms = "all graphs" if new else "the specialised graphs (1.31 also runs the canonical ones)"
    cuda = "CUDAExecutionProvider" in compiled
    return [
        Finding(subject="onnxruntime", works=True, detail=f"{version}, runs {forms}"),
        Finding(
            subject="cpu backend", works="CPUExecutionProvider" in compiled, detail="always there"
        ),
        Finding(
            subject="cuda backend",
            works=cuda and driver_error() is None,
            detail=("compiled in" if cuda else "not compiled in; pip install 'seq2edge[cuda]'")
            + ("" if driver_error() is None else "; no driver"),
        ),
    ]


def _cuda_driver() -> Finding:
    error = driver_error()
    detail = "libcuda.so.1 loads" if error is None else f"{error}; install the NVIDIA driver"
    return Finding(subject="nvidia driver", works=error is None, detail=detail)


def _tensorrt() -> list[Finding]:
    """What engines need: a library, cuda-bindings, a driver and a device."""
    findings, missing = [], []
    trt = None
    try:
        trt = import_tensorrt()
        detail = f"{trt.__name__} {trt.__version__}"
        findings.append(Finding(subject="tensorrt", works=True, detail=detail))
    except BackendError as error:
        missing.append("no library")
        findings.append(Finding(subject="tensorrt", works=False, detail=str(error)))
    try:
        device = Device(import_cuda())
        detail = f"runs engines on {device.name}, compute capability {device.capability}"
        if trt is not None and trt.__name__ == "tensorrt_rtx" and not _is_rtx(device.capability):
            missing.append(
                f"tensorrt_rtx runs no engines on {device.name}, compute capability "
                f"{device.capability}; install TensorRT, or use --device cuda"
            )
    except BackendError as error:
        missing.append(str(error))
    works = not missing
    detail = detail if works else "; ".join(missing)
    return [*findings, Finding(subject="tensorrt backend", works=works, detail=detail)]


def _is_rtx(capability: str) -> bool:
    """Whether TensorRT-RTX runs engines there, by the list that 1.7 gave when it refused 9.0."""
    return capability in {"7.5", "8.0", "8.6", "8.9"} or float(capability) >= 12


def _package(name: str, remedy: str = "to export: pip install 'seq2edge[export,cpu]'") -> Finding:
    try:
        return Finding(subject=name, works=True, detail=importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(subject=name, works=False, detail=f"missing; {remedy}")
