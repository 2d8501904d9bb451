"""The GGUF format (ggml's docs/gguf.md), versions 2 and 3, little-endian.

"GGUF" | version u32 | tensors u64 | settings u64 | settings, each: key string, type u32, value |
tensors, each: name string, rank u32, extents u64 (innermost first), type u32, offset u64 | padding
to the alignment | data. A string is its length as u64 and the text; an array is the type of its
items, their number as u64, and the items.

Not read by the library's `gguf.GGUFReader`, which trusts the file: it raises numpy's IndexError or
ValueError where one is damaged, and an array that says it has 2**40 items keeps it busy without an
end. Here every length is held against the bytes that there are. Dequantization is the library's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.checkpoints.importers.binary import BinaryReader
from seq2edge.errors import CheckpointError, UnsupportedError

MAGIC = int.from_bytes(b"GGUF", "little")
VERSIONS = (2, 3)
SCALARS = dict(zip(range(7), "BbHhIif", strict=True)) | {10: "Q", 11: "q", 12: "d"}
BOOL, STRING, ARRAY = 7, 8, 9
RANKS = 4  # the most axes that ggml has


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor as stored: `shape` outermost first, `kind` a ggml type, `data` the raw bytes."""

    kind: int
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    def to_float32(self) -> NDArray[np.float32]:
        """The values, dequantized by ggml's own Python package."""
        from gguf import GGMLQuantizationType, quants

        values = quants.dequantize(self.data, GGMLQuantizationType(self.kind))
        plain: NDArray[np.float32] = values.reshape(self.shape).astype(np.float32, copy=False)
        return plain


@dataclasses.dataclass(frozen=True, kw_only=True)
class GgufFile:
    """What a GGUF file holds."""

    settings: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]


def read_gguf(path: Path) -> GgufFile:
    """Read the file. Raises CheckpointError where it is damaged, UnsupportedError for its kind."""
    reader = BinaryReader(path)
    if reader.number("I") != MAGIC:
        raise CheckpointError(f"{path}: not a GGUF file; other checkpoints are folders")
    version = reader.number("I")
    if version not in VERSIONS:
        raise UnsupportedError(f"{path}: GGUF version {version}, versions 2 and 3 are supported")
    tensor_count, setting_count = reader.number("Q"), reader.number("Q")
    settings: dict[str, Any] = {}
    for _ in range(setting_count):
        key = _string(reader)
        if key in settings:
            raise CheckpointError(f"{path}: {key} is stored twice")
        settings[key] = _value(reader, reader.number("I"))
    heads = [_head(reader) for _ in range(tensor_count)]
    alignment = settings.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise CheckpointError(f"{path}: general.alignment is {alignment!r}")
    start = reader.offset + -reader.offset % alignment
    tensors: dict[str, StoredTensor] = {}
    for name, shape, kind, offset in heads:
        if name in tensors:
            raise CheckpointError(f"{path}: {name} is stored twice")
        tensors[name] = _tensor(reader, name, shape, kind, start + offset)
    return GgufFile(settings=settings, tensors=tensors)


def _string(reader: BinaryReader) -> str:
    return reader.text(reader.number("Q"))


def _value(reader: BinaryReader, kind: int, depth: int = 0) -> Any:
    if kind == STRING:
        return _string(reader)
    if kind == BOOL:
        return bool(reader.number("B"))
    if kind in SCALARS:
        return reader.number(SCALARS[kind])
    if kind == ARRAY and depth < RANKS:
        item, count = reader.number("I"), reader.number("Q")
        return [_value(reader, item, depth + 1) for _ in range(count)]
    raise CheckpointError(f"{reader.path}: unknown type {kind} before byte {reader.offset}")


def _head(reader: BinaryReader) -> tuple[str, tuple[int, ...], int, int]:
    name, rank = _string(reader), reader.number("I")
    if rank > RANKS:
        raise CheckpointError(f"{reader.path}: {name} has {rank} axes, GGUF allows {RANKS}")
    extents = [reader.number("Q") for _ in range(rank)]
    return name, tuple(reversed(extents)), reader.number("I"), reader.number("Q")


def _tensor(
    reader: BinaryReader, name: str, shape: tuple[int, ...], kind: int, start: int
) -> StoredTensor:
    """Find the bytes of a tensor: rows of blocks, each of so many values in so many bytes."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        values, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (KeyError, ValueError):
        raise UnsupportedError(f"{reader.path}: {name} has the unknown type {kind}") from None
    if not shape or min(shape) < 1 or shape[-1] % values:
        raise CheckpointError(
            f"{reader.path}: {name} of shape {list(shape)} is not made of blocks of {values}"
        )
    row = shape[-1] // values * size
    data = reader.window(start, math.prod(shape[:-1]) * row)
    return StoredTensor(kind=kind, shape=shape, data=data.reshape(-1, row))
