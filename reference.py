"""`reference.npz`: inputs, tokens and logits recorded from the float model at export.

The arrays are plain numbers; pickled objects, and headers that promise more data than there is,
are refused before anything is allocated for them.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seq2edge.errors import BundleError
from seq2edge.storage import file_errors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REFERENCE = "reference.npz"
LIMIT = 2**30  # bytes of all arrays together


def write_reference(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays of numbers. Raises BundleError for arrays of objects and a full disk."""
    import numpy as np  # noqa: PLC0415 - reading a manifest must not load it

    for name, array in arrays.items():
        if array.dtype.kind not in "biufU":
            raise BundleError(f"{path}: array {name!r} of {array.dtype}, only numbers can be kept")
    with file_errors(path), path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_reference(path: Path, *, limit_bytes: int = LIMIT) -> dict[str, NDArray[Any]]:
    """The arrays by name.

    Raises BundleError when the file is damaged, holds objects, or unpacks to over `limit_bytes`.
    """
    with file_errors(path):
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
                total = sum(member.file_size for member in members)
                if total > limit_bytes:
                    raise BundleError(f"{path}: {total} bytes of arrays, limit {limit_bytes}")
                return {
                    member.filename.removesuffix(".npy"): _array(archive.read(member))
                    for member in members
                }
        except (
            ValueError,
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            NotImplementedError,
        ) as error:
            raise BundleError(f"{path}: not readable as recorded arrays, {error}") from error


def _array(data: bytes) -> NDArray[Any]:
    """One `.npy` file, whose header must promise exactly the data there is."""
    from numpy.lib import format as npy  # noqa: PLC0415 - as above

    file = io.BytesIO(data)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in read_header:
        raise ValueError(f"array format {version} is unknown")
    shape, _, dtype = read_header[version](file)
    _check_promise(shape, dtype, len(data) - file.tell())
    file.seek(0)
    array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
    return array


def _check_promise(shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> None:
    if dtype.kind not in "biufU":
        raise ValueError(f"an array of {dtype}, only numbers are read")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"an array of shape {shape} and type {dtype} in {size} bytes")
