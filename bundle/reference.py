"""`reference.npz`: inputs, tokens and logits recorded from the float model at export.

The arrays are plain numbers; pickled objects, and headers that promise more data than there is,
are refused before anything is allocated for them.
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seq2edge.errors import BundleError
from seq2edge.files.storage import file_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

REFERENCE = "reference.npz"
LIMIT = 2**28  # bytes of all arrays together: ten times those of the largest vocabularies
_LENGTH_END = 10
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGE = (
    ValueError,
    TypeError,
    OverflowError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
_HEADER = re.compile(  # one way alone to read any of it, so that no header takes long
    rb"\x93NUMPY\x01\x00(?P<length>..)"
    rb"\{'descr': '(?P<dtype>[<>|][biuf][0-9]{1,2})', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>(?:[0-9]{1,18}(?:, [0-9]{1,18}){0,31},?)?)\), \} *\n",
    re.DOTALL,
)


def write_reference(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays of numbers. Raises BundleError for other arrays and for a full disk."""
    from numpy.lib import format as npy

    with file_errors(path), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            if array.dtype.kind not in "biuf":
                raise BundleError(f"{path}: array {name!r} of {array.dtype}, only numbers are kept")
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, array, allow_pickle=False)


def read_reference(path: Path, *, limit_bytes: int = LIMIT) -> dict[str, NDArray[Any]]:
    """The arrays by name.

    Raises BundleError when the file is damaged, holds objects, or unpacks to over `limit_bytes`.
    """
    with file_errors(path):
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
                if any(member.compress_type not in _COMPRESSIONS for member in members):
                    raise BundleError(f"{path}: compressed in a way that arrays never are")
                total = sum(member.file_size for member in members)
                if total > limit_bytes:
                    raise BundleError(f"{path}: {total} bytes of arrays, limit {limit_bytes}")
                return {
                    member.filename.removesuffix(".npy"): _array(archive.read(member))
                    for member in members
                }
        except _DAMAGE as error:
            raise BundleError(f"{path}: not readable as recorded arrays, {error}") from error


def _array(data: bytes) -> NDArray[Any]:
    """One `.npy` file, whose header must promise exactly the data there is."""
    import numpy as np

    header = _HEADER.match(data)
    if header is None:
        raise ValueError("a member is not an array of numbers")
    dtype = np.dtype(header["dtype"].decode())
    shape = tuple(int(size) for size in header["shape"].split(b",") if size.strip())
    available = len(data) - header.end()
    if int.from_bytes(header["length"], "little") != header.end() - _LENGTH_END:
        raise ValueError("a header's length is wrong")
    if math.prod(shape) * dtype.itemsize != available:
        raise ValueError(f"an array of shape {shape} and type {dtype} in {available} bytes")
    flat = np.frombuffer(data, dtype, offset=header.end())
    return flat.reshape(shape, order="F" if header["fortran"] == b"True" else "C").copy(order="K")
