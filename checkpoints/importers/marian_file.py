"""Marian's binary format of models, version 1, little-endian, and the settings inside.

version u64 | tensors n u64 | n headers of four u64: bytes of the name, type, axes, bytes of the
data | names, each with a closing NUL | extents as i32 | padding u64 and so many bytes | data. A
matrix of 8-bit integers is stored by columns, behind its numbers stands the float32 that they were
multiplied by; a table of embeddings is stored by rows. `special:model.yml` holds the settings.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.checkpoints.importers.binary import BinaryReader
from seq2edge.errors import CheckpointError, UnsupportedError, foreign_errors

VERSION = 1
SETTINGS = "special:model.yml"
FLOAT32, INT8, INTGEMM8 = 0x404, 0x101, 0x4101
NAMES = {
    0x402: "float16",
    0x4102: "intgemm16",
    0x5101: "intgemm8 laid out for SSSE3",
    0x6101: "intgemm8 laid out for AVX2",
    0x7101: "intgemm8 laid out for AVX-512",
}
MOST_AXES = 8
TABLES = ("Wemb", "encoder_Wemb", "decoder_Wemb")
# Type, extents and bytes of each.
Tensors: TypeAlias = Mapping[str, tuple[int, tuple[int, ...], NDArray[np.uint8]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MarianFile:
    """Tensors as they are stored, and the settings."""

    path: Path
    settings: Mapping[str, Any]
    tensors: Tensors

    def extents(self, name: str) -> tuple[int, ...]:
        """The tensor's shape. Raises CheckpointError where it is missing."""
        if name not in self.tensors:
            raise CheckpointError(f"{self.path}: tensor {name} is missing")
        return self.tensors[name][1]

    def read(self, name: str) -> NDArray[np.float32]:
        """The numbers as float32, (in, out) of a product, (rows, width) of a table."""
        shape = self.extents(name)
        kind, _, data = self.tensors[name]
        count = math.prod(shape)
        if kind == FLOAT32:
            return data[: 4 * count].view("<f4").reshape(shape).astype(np.float32)
        factor = float(data[count : count + 4].view("<f4")[0])
        values = data[:count].view(np.int8).astype(np.float32) / np.float32(factor)
        return values.reshape(shape) if name in TABLES else values.reshape(shape[::-1]).T


def read_marian(path: Path) -> MarianFile:
    """Read a model of Marian. Raises CheckpointError or UnsupportedError naming file and tensor."""
    reader = BinaryReader(path)
    version, count = reader.number("Q"), reader.number("Q")
    if version != VERSION:
        raise CheckpointError(f"{path}: not a Marian model of binary version 1 but {version}")
    headers = [tuple(reader.number("Q") for _ in range(4)) for _ in range(_few(count, reader))]
    names = [reader.text(_few(header[0], reader)).rstrip("\0") for header in headers]
    shapes = []
    for name, (_, kind, axes, _) in zip(names, headers, strict=True):
        if axes > MOST_AXES:
            raise CheckpointError(f"{path}: {name} has {axes} axes")
        shapes.append(tuple(int(reader.number("i")) for _ in range(axes)))
        if kind not in (FLOAT32, INT8, INTGEMM8):
            known = NAMES.get(kind, hex(kind))
            raise UnsupportedError(
                f"{path}: {name} is {known}, not supported; take the model of intgemm8 (its file "
                "is called *.intgemm.alphas.bin or *.intgemm8.bin) or of float32"
            )
    reader.array("<u1", (_few(reader.number("Q"), reader),))
    tensors = {}
    for name, shape, (_, kind, _, size) in zip(names, shapes, headers, strict=True):
        least = math.prod(shape) * (4 if kind == FLOAT32 else 1) + 4 * (kind == INTGEMM8)
        if min(shape, default=1) < 1 or least > size:
            raise CheckpointError(f"{path}: {name} of shape {list(shape)} has {size} bytes")
        tensors[name] = (kind, shape, reader.array("<u1", (_few(size, reader),)))
    if len(tensors) < len(names):
        raise CheckpointError(f"{path}: two tensors have the same name")
    return MarianFile(path=path, settings=_settings(path, tensors), tensors=tensors)


def _few(count: int, reader: BinaryReader) -> int:
    """A count that the file can hold."""
    if count > reader.size:
        raise CheckpointError(f"{reader.path}: a count of {count}; it is truncated or damaged")
    return int(count)


def _settings(path: Path, tensors: Tensors) -> dict[str, Any]:
    if SETTINGS not in tensors:
        raise CheckpointError(f"{path}: {SETTINGS} is missing")
    yaml: Any = importlib.import_module("yaml")  # without types
    with foreign_errors(CheckpointError, f"{path}: {SETTINGS} cannot be read"):
        text = bytes(tensors[SETTINGS][2]).rstrip(b"\0").decode("utf-8")
        values = yaml.safe_load(text)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: {SETTINGS} holds no settings")
    return {str(key): value for key, value in values.items()}
