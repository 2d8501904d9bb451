"""CTranslate2's binary format (its `specs/model_spec.py`), version 6, little-endian.

version u32 | spec string | revision u32 | variables u32, each: name string, rank u8, extents u32,
data type u8, bytes u32, data | aliases u32, each: name string, target string. A string is its
length with the closing NUL as u16, the text, and the NUL.
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

VERSION = 6
DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
BFLOAT16 = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variable:
    """One stored array, still in the file. `bfloat16` values are the bits as uint16."""

    values: NDArray[Any]
    bfloat16: bool = False

    def to_float32(self) -> NDArray[np.float32]:
        """The numbers themselves, scales of quantized weights not applied."""
        if self.bfloat16:
            return (self.values.astype(np.uint32) << 16).view(np.float32)
        return self.values.astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VariableFile:
    """What a model.bin holds; an alias is the same `Variable` under another name."""

    spec: str
    revision: int
    variables: Mapping[str, Variable]


def read_variables(path: Path) -> VariableFile:
    """Read a model.bin. Raises CheckpointError where it is damaged or of another version."""
    reader = BinaryReader(path)
    version = reader.number("I")
    if version != VERSION:
        raise CheckpointError(
            f"{path}: not a CTranslate2 file of binary version {VERSION} but {version}; convert "
            "the model again with a current ct2-transformers-converter"
        )
    spec, revision = _string(reader), reader.number("I")
    variables: dict[str, Variable] = {}
    for _ in range(reader.number("I")):
        name = _new_name(reader, variables)
        variables[name] = _variable(reader, name)
    aliases: dict[str, str] = {}
    for _ in range(reader.number("I")):
        name, target = _new_name(reader, variables, aliases), _string(reader)
        if target not in variables:
            raise CheckpointError(f"{path}: {name} stands for {target}, which is not there")
        aliases[name] = target
    for name, target in aliases.items():
        variables[name] = variables[target]
        if f"{target}_scale" in variables:  # comes along without an alias of its own
            variables.setdefault(f"{name}_scale", variables[f"{target}_scale"])
    if reader.offset != reader.size:
        raise CheckpointError(f"{path}: {reader.size - reader.offset} bytes after the end")
    return VariableFile(spec=spec, revision=revision, variables=variables)


def _string(reader: BinaryReader) -> str:
    text = reader.text(reader.number("H"))
    if not text.endswith("\0"):
        raise CheckpointError(f"{reader.path}: the string before byte {reader.offset} has no end")
    return text[:-1]


def _new_name(reader: BinaryReader, *taken: Mapping[str, object]) -> str:
    name = _string(reader)
    if any(name in names for names in taken):
        raise CheckpointError(f"{reader.path}: {name} is stored twice")
    return name


def _variable(reader: BinaryReader, name: str) -> Variable:
    shape = tuple(reader.number("I") for _ in range(reader.number("B")))
    code, length = reader.number("B"), reader.number("I")
    if code not in DTYPES and code != BFLOAT16:
        raise UnsupportedError(f"{reader.path}: {name} has the unknown data type {code}")
    dtype = DTYPES.get(code, "<u2")
    if length != math.prod(shape) * np.dtype(dtype).itemsize:
        raise CheckpointError(
            f"{reader.path}: {name} of shape {list(shape)} cannot have {length} bytes"
        )
    return Variable(values=reader.array(dtype, shape), bfloat16=code == BFLOAT16)
