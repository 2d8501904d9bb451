"""Files that may be compressed, as their names say."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

COMPRESSED: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
READ_ERRORS = (OSError, EOFError, lzma.LZMAError, zlib.error)  # of opening and of reading on


def open_bytes(path: Path) -> IO[bytes]:
    """The file's bytes, uncompressed where its name ends in .gz, .bz2 or .xz."""
    file: IO[bytes] = COMPRESSED.get(path.suffix, open)(path, "rb")
    return file


def content_suffix(path: Path) -> str:
    """The suffix that says what is in the file: ".tsv" of both "a.tsv" and "a.tsv.gz"."""
    return Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix
