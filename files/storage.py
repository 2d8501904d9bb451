"""Files: listed, hashed, replaced whole or not at all, errors as errors of ours."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, TypeAlias

from seq2edge.errors import BundleError, Seq2EdgeError
from seq2edge.files.records import Pattern

CHUNK = 2**20  # bytes read at a time
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
Sha256: TypeAlias = Annotated[
    str,
    Pattern(regex=r"[0-9a-f]{64}", meaning="64 lower-case hexadecimal digits", longest=64),
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


def temporary_beside(path: Path) -> Path:
    """A new hidden name in the same folder, and so on the same file system, as `path`."""
    return path.parent / f".seq2edge-{secrets.token_hex(6)}.partial"


def require_regular(path: Path, kind: type[Seq2EdgeError] = BundleError) -> None:
    """Raise for a pipe or a device, which may never end. Raises OSError where nothing is there."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise kind(f"{path}: not a regular file")


def read_regular(path: Path, most: int, kind: type[Seq2EdgeError] = BundleError) -> bytes:
    """The bytes of a file, of at most so many. Raises OSError where it cannot be read."""
    require_regular(path, kind)
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise kind(f"{path}: more than {most:,} bytes")
    return data


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields where to write a new file, which takes `path`'s place whole or not at all.

        with file_errors(path), replacing(path) as partial:
            partial.write_bytes(...)

    An exception leaves `path` as it was. Raises OSError where the file system refuses.
    """
    partial = temporary_beside(path)
    try:
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """The same for a folder: yields a new, empty one; missing parents are made."""
    partial = temporary_beside(path)
    try:
        partial.mkdir(parents=True)
        yield partial
        sync_folder(partial)
        move_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def move_folder(folder: Path, path: Path) -> None:
    """Move `folder` to `path`, both on one file system; what was at `path` is removed.

    Raises OSError where that cannot be, and then `path` is as it was.
    """
    old = temporary_beside(path) if path.exists() else None
    if old is not None:
        path.rename(old)
    try:
        folder.rename(path)
    except OSError:
        if old is not None:
            old.rename(path)
        raise
    sync(path.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Force a file or a folder onto the disk, where the system can."""
    if os.name == "nt":  # needs a handle open for writing and knows no folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Force a folder and everything in it onto the disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


@contextlib.contextmanager
def file_errors(subject: Path, kind: type[Seq2EdgeError] = BundleError) -> Iterator[None]:
    """What the file system refuses becomes an error of that kind about `subject`."""
    try:
        yield
    except OSError as error:
        remedy = ", free some space or choose another disk" if error.errno in DISK_FULL else ""
        raise kind(f"{subject}: {error.strerror or error}{remedy}") from error
