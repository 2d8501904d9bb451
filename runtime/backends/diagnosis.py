"""What this machine has: libraries, devices, and what to install for the rest."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import sys

from seq2edge.errors import BackendError
from seq2edge.runtime.backend import driver_error
from seq2edge.runtime.backends.device import Device, import_cuda
from seq2edge.runtime.backends.tensorrt_library import import_tensorrt

EXPORT = ("torch", "onnx", "onnxscript", "onnx-ir", "safetensors", "transformers", "sentencepiece")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component:
    """Something that bundles need or are made with, and whether it works here."""

    subject: str
    works: bool
    detail: str


def diagnose() -> list[Component]:
    """Everything worth knowing before a bundle is run or made here.

    Imports onnxruntime and, where it is installed, TensorRT, to see whether they load.
    """
    return [
        Component(
            subject="python",
            works=sys.version_info >= (3, 10),
            detail=f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores",
        ),
        *_onnxruntime(),
        _cuda_driver(),
        *_tensorrt(),
        _package(
            "cuda-bindings", "to run on a GPU: pip install 'seq2edge[cuda]' or 'seq2edge[rtx]'"
        ),
        _package("pillow", "to read images: pip install 'seq2edge[images]'"),
        _package("cryptography", "to check signatures: pip install 'seq2edge[signing]'"),
        *(_package(name) for name in EXPORT),
    ]


def _onnxruntime() -> list[Component]:
    try:
        import onnxruntime
    except ImportError as error:
        detail = f"{error}; to run bundles: pip install 'seq2edge[cpu]' or 'seq2edge[cuda]'"
        return [Component(subject="onnxruntime", works=False, detail=detail)]
    version = str(onnxruntime.__version__)
    compiled = onnxruntime.get_available_providers()
    new = tuple(int(part) for part in version.split(".")[:2]) >= (1, 31)
    forms = (
        "all graphs"
        if new
        else "the specialised graphs (1.31 the canonical ones too, and checks exports)"
    )
    cuda = "CUDAExecutionProvider" in compiled
    return [
        Component(subject="onnxruntime", works=True, detail=f"{version}, runs {forms}"),
        Component(
            subject="cpu backend", works="CPUExecutionProvider" in compiled, detail="always there"
        ),
        Component(
            subject="cuda backend",
            works=cuda and driver_error() is None,
            detail=("compiled in" if cuda else "not compiled in; pip install 'seq2edge[cuda]'")
            + ("" if driver_error() is None else "; no driver"),
        ),
    ]


def _cuda_driver() -> Component:
    error = driver_error()
    detail = "libcuda.so.1 loads" if error is None else f"{error}; install the NVIDIA driver"
    return Component(subject="nvidia driver", works=error is None, detail=detail)


def _tensorrt() -> list[Component]:
    """What engines need: a library, cuda-bindings, a driver and a device."""
    components, missing = [], []
    trt = None
    try:
        trt = import_tensorrt()
        detail = f"{trt.__name__} {trt.__version__}"
        components.append(Component(subject="tensorrt", works=True, detail=detail))
    except BackendError as error:
        missing.append("no library")
        components.append(Component(subject="tensorrt", works=False, detail=str(error)))
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
    return [*components, Component(subject="tensorrt backend", works=works, detail=detail)]


def _is_rtx(capability: str) -> bool:
    """Whether TensorRT-RTX runs engines there, by the list that 1.7 gave when it refused 9.0."""
    return capability in {"7.5", "8.0", "8.6", "8.9"} or float(capability) >= 12


def _package(name: str, remedy: str = "to export: pip install 'seq2edge[export,cpu]'") -> Component:
    try:
        return Component(subject=name, works=True, detail=importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Component(subject=name, works=False, detail=f"missing; {remedy}")
