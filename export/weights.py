"""Writing several graphs with one weights file that they share.

Every tensor is written once, however many graphs read it, and only one is in memory at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from seq2edge.bundle.manifest import Dtype

WEIGHTS = "weights.data"  # the file that all graphs of a bundle share
INLINE_BYTES = 1024  # smaller tensors stay in the graph, where shape inference reads them
ALIGNMENT = 4096  # so that a tensor can be mapped into memory


def dtype_name(value: ir.Value) -> Dtype:
    """The type of a graph's tensor in the manifest's words, which are numpy's and ml_dtypes'."""
    assert value.dtype is not None
    return value.dtype.numpy().name  # type: ignore[return-value]


class WeightsWriter:
    """Collects the initializers of graphs into one file."""

    def __init__(self, path: Path, progress: Callable[[int], None] | None = None) -> None:
        self.path = path
        self.progress = progress
        self._written: dict[tuple[object, ...], tuple[int, int]] = {}

    def write(self, models: Iterable[ir.Model]) -> None:
        """Write all weights and point the graphs at them."""
        with self.path.open("wb") as file:
            for model in models:
                for name, value in model.graph.initializers.items():
                    tensor = value.const_value
                    if tensor is not None and tensor.nbytes > INLINE_BYTES:
                        value.const_value = self._place(file, name, tensor)

    def _place(self, file: BinaryIO, name: str, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
        """Write a tensor unless its bytes are there already; where they are, as a tensor."""
        key = _identity(tensor)
        if key not in self._written:
            file.seek(-file.tell() % ALIGNMENT, os.SEEK_CUR)
            offset = file.tell()
            if tensor.dtype.bitwidth < 8:
                file.write(tensor.tobytes())  # two values share a byte there
            else:
                file.write(np.ascontiguousarray(tensor.numpy()).view(np.uint8).data.cast("B"))
            self._written[key] = (offset, file.tell() - offset)
            if self.progress is not None:
                self.progress(tensor.nbytes)
        offset, length = self._written[key]
        shape = ir.Shape(tensor.shape.numpy())
        return ir.ExternalTensor(
            self.path.name,
            offset,
            length,
            tensor.dtype,
            shape=shape,
            name=name,
            base_dir=self.path.parent,
        )


def _identity(tensor: ir.TensorProtocol) -> tuple[object, ...]:
    """Equal for the same bytes, in memory or in a file, and for one lazy tensor of two graphs."""
    if isinstance(tensor, ir.ExternalTensor):
        return ("file", str(tensor.path), tensor.offset, tensor.length)
    if isinstance(tensor, ir.LazyTensor):
        return ("lazy", id(tensor))
    if tensor.dtype.bitwidth < 8:
        return ("values", id(tensor))
    array = tensor.numpy()
    where = array.__array_interface__["data"][0]
    if array.flags.c_contiguous:
        return ("memory", where, array.nbytes)
    return ("strided", where, array.strides, tuple(tensor.shape))
