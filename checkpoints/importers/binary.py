"""Reading a binary file from front to back, every length checked before it is believed."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import CheckpointError
from seq2edge.files.storage import require_regular


class BinaryReader:
    """A little-endian file mapped into memory, and how far it has been read.

    Every method raises CheckpointError where the file ends too early.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        try:
            require_regular(path, CheckpointError)
            self._bytes: NDArray[np.uint8] = np.memmap(path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
        self._view = self._bytes.data

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return len(self._view)

    def number(self, code: str) -> Any:
        """One number of a `struct` format character."""
        start = self._take(struct.calcsize(f"<{code}"))
        return struct.unpack_from(f"<{code}", self._view, start)[0]

    def text(self, length: int) -> str:
        """So many bytes of UTF-8."""
        start = self._take(length)
        try:
            return str(self._view[start : start + length], "utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.path}: a name at byte {start} is not UTF-8") from error

    def array(self, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """Numbers of a little-endian dtype, still in the file: nothing is copied."""
        length = np.dtype(dtype).itemsize
        for extent in shape:
            length *= extent
        start = self._take(length)
        try:
            return self._bytes[start : start + length].view(dtype).reshape(shape)
        except ValueError as error:  # too many axes, or such sizes beside a size of 0
            raise CheckpointError(f"{self.path}: the array at byte {start}: {error}") from error

    def window(self, start: int, length: int) -> NDArray[np.uint8]:
        """Raw bytes from anywhere in the file."""
        if start < 0 or length < 0 or start + length > self.size:
            raise CheckpointError(
                f"{self.path}: {length} bytes at {start} lie beyond the file's end at "
                f"{self.size}; it is truncated or damaged"
            )
        return self._bytes[start : start + length]

    def _take(self, length: int) -> int:
        start = self.offset
        self.window(start, length)
        self.offset += length
        return start
