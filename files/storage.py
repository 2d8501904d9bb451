"""Files as bundles need them: listed, hashed, forced onto the disk, errors as BundleError."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, TypeAlias

from seq2edge.errors import BundleError, Seq2EdgeError
from seq2edge.files.records import Text

CHUNK = 2**20  # bytes read at a time
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
Sha256: TypeAlias = Annotated[
    str,
    Text(pattern=r"[0-9a-f]{64}", meaning="64 lower-case hexadecimal digits", longest=64),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileRecord:
    """Size in bytes and hash of one file."""

    size: int
    sha256: Sha256


def scan(folder: Path) -> dict[str, int]:
    """Sizes in bytes of all files below `folder`, by name; links and devices are refused."""
    sizes = {}
    pending = [""]
    with file_errors(folder):
        while pending:
            prefix = pending.pop()
            with os.scandir(folder / prefix) as entries:
                for entry in entries:
                    name = prefix + entry.name
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(f"{name}/")
                    elif entry.is_file(follow_symlinks=False):
                        sizes[name] = entry.stat(follow_symlinks=False).st_size
                    else:
                        raise BundleError(f"{folder}: {name!r} is a link or a device, remove it")
    return dict(sorted(sizes.items()))


def fingerprint(path: Path) -> FileRecord:
    """Size and SHA-256 of a file, read in chunks."""
    with file_errors(path), path.open("rb") as file:
        return copy_hashed(file, None, size=None)


def copy_hashed(source: BinaryIO, sink: BinaryIO | None, size: int | None) -> FileRecord:
    """Copy `size` bytes (None: up to the end) and hash them on the way.

    The record's size is smaller than `size` where the source ended early.
    """
    digest = hashlib.sha256()
    done = 0
    while chunk := source.read(CHUNK if size is None else min(CHUNK, size - done)):
        digest.update(chunk)
        done += len(chunk)
        if sink is not None:
            sink.write(chunk)
    return FileRecord(size=done, sha256=digest.hexdigest())


def hidden_sibling(path: Path) -> Path:
    """A new name in the same folder, and so on the same file system, as `path`."""
    return path.parent / f".seq2edge-{secrets.token_hex(6)}.partial"


def sync(path: Path) -> None:
    """Force a file or a folder onto the disk, where the system can."""
    if os.name == "nt":  # needs a handle open for writing and knows no folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def file_errors(subject: Path, kind: type[Seq2EdgeError] = BundleError) -> Iterator[None]:
    """What the file system refuses becomes an error of that kind about `subject`."""
    try:
        yield
    except OSError as error:
        remedy = ", free some space or choose another disk" if error.errno in DISK_FULL else ""
        raise kind(f"{subject}: {error.strerror or error}{remedy}") from error
