"""Backends that execute a bundle, and the choice between them."""

from __future__ import annotations

import importlib

from seq2edge.bundle import Bundle
from seq2edge.errors import BackendError, EngineError
from seq2edge.runtime.backend import Backend

BACKENDS = {
    "tensorrt": "tensorrt:TensorRTBackend",
    "cuda": "onnxruntime:OnnxRuntimeBackend",
    "cpu": "onnxruntime:OnnxRuntimeBackend",
}


def open_backend(
    bundle: Bundle, *, device: str = "auto", threads: int | None = None, graphs: str | None = None
) -> tuple[Backend, str]:
    """A backend for the device, and why it was taken. `auto` tries the fastest device first.

    Engines of TensorRT are tried where the bundle has some and `graphs` names no others; `threads`
    is for what runs without them. Raises BackendError with every device's reason when none works
    here, and EngineError for an engine that was asked for and does not work.
    """
    if device != "auto":
        return _open(bundle, device, threads, graphs), f"{device}: asked for"
    refusals = []
    engines = bool(bundle.manifest.engines) and graphs is None
    for name in BACKENDS if engines else [name for name in BACKENDS if name != "tensorrt"]:
        try:
            backend = _open(bundle, name, None if name == "tensorrt" else threads, graphs)
        except (BackendError, EngineError) as error:
            refusals.append(f"{name}: not used, {error}")
            continue
        return backend, "; ".join([*refusals, f"{name}: works"])
    raise BackendError("; ".join(refusals))


def _open(bundle: Bundle, device: str, threads: int | None, graphs: str | None) -> Backend:
    if device not in BACKENDS:
        raise BackendError(f"device: {device!r} is unknown, known: auto, {', '.join(BACKENDS)}")
    module, attribute = BACKENDS[device].split(":")
    maker = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    backend: Backend = maker(bundle, device=device, target=graphs, threads=threads)
    return backend
