"""TensorRT engines of a bundle's graphs."""

from __future__ import annotations

from typing import Any

__all__ = ["build_engine"]


def __getattr__(name: str) -> Any:
    """`build_engine`, whose module needs `onnx`: whoever lists targets does not."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from seq2edge.export.tensorrt.engine import build_engine

    return build_engine
