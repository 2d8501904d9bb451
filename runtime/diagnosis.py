"""What this machine has: libraries, devices, and what to install for the rest."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import sys

EXPORT = ("torch", "onnx", "onnxscript", "onnx-ir", "safetensors", "transformers", "sentencepiece")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the diagnosis."""

    subject: str
    works: bool
    detail: str


def diagnose() -> list[Finding]:
    """Everything worth knowing before a bundle is run or made here; imports onnxruntime alone."""
    return [
        Finding(
            subject="python",
            works=sys.version_info >= (3, 10),
            detail=f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores",
        ),
        *_onnxruntime(),
        _cuda_driver(),
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
    new = tuple(int(part) for part in version.split(".")[:2]) >= (1, 32)
    forms = "all graphs" if new else "the specialised graphs (1.32 also runs the canonical ones)"
    cuda = "CUDAExecutionProvider" in compiled
    return [
        Finding(subject="onnxruntime", works=True, detail=f"{version}, runs {forms}"),
        Finding(
            subject="cpu backend", works="CPUExecutionProvider" in compiled, detail="always there"
        ),
        Finding(
            subject="cuda backend",
            works=cuda and _driver_error() is None,
            detail=("compiled in" if cuda else "not compiled in; pip install 'seq2edge[cuda]'")
            + ("" if _driver_error() is None else "; no driver"),
        ),
    ]


def _driver_error() -> str | None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return str(error)
    return None


def _cuda_driver() -> Finding:
    error = _driver_error()
    detail = "libcuda.so.1 loads" if error is None else f"{error}; install the NVIDIA driver"
    return Finding(subject="nvidia driver", works=error is None, detail=detail)


def _package(name: str) -> Finding:
    try:
        return Finding(subject=name, works=True, detail=importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        detail = "missing; to export: pip install 'seq2edge[export,cpu]'"
        return Finding(subject=name, works=False, detail=detail)
