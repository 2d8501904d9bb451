"""Files: listed, hashed, replaced whole or not at all, errors as errors of ours."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, TypeAlias

from seq2edge.errors import BundleError, Seq2EdgeError
from seq2edge.files.exchange import sync
from seq2edge.files.records import Pattern
from seq2edge.files.workspace import NEW, finish_replacement, put_folder, workspace

CHUNK = 2**20  # bytes read at a time
REMEDIES = {
    errno.ENOSPC: ", free some space or choose another disk",
    errno.EDQUOT: ", free some space, ask for a larger quota or choose another disk",
    errno.EFBIG: ", raise the limit of a file's size (ulimit -f) or choose another disk",
    errno.EXDEV: ", it is a mount or part of a container's image, choose another place",
    errno.EBUSY: ", it is a mount or in use, choose another place",
}
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
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
    with workspace(path.parent) as work:
        yield work / NEW
        sync(work / NEW)
        (work / NEW).replace(path)
        sync(path.parent)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """The same for a folder: yields a new, empty one; missing parents are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with workspace(path.parent) as work:
        (work / NEW).mkdir()
        yield work / NEW
        put_folder(work, path)


def real_path(path: str | os.PathLike[str], kind: type[Seq2EdgeError] = BundleError) -> Path:
    """The path without links. Raises an error of that kind for what no path can be."""
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:
        raise kind(f"{str(path)!r}: no path can be this, {error}") from error


def settle(path: Path, kind: type[Seq2EdgeError] = BundleError) -> None:
    """Whoever opens `path` finishes its replacement first, where a run was cut in the middle of it.

    Raises an error of that kind where this may not be written.
    """
    try:
        finish_replacement(real_path(path, kind))
    except OSError as error:
        raise kind(
            f"{path}: its replacement was cut and cannot be finished ({error.strerror or error}), "
            f"let who may write there call: seq2edge clean {path.parent}"
        ) from error


@contextlib.contextmanager
def file_errors(subject: Path, kind: type[Seq2EdgeError] = BundleError) -> Iterator[None]:
    """What the file system refuses becomes an error of that kind about `subject`.

    A full disk is one too where a library tells of it in an exception of its own.
    """
    try:
        yield
    except Seq2EdgeError:
        raise
    except Exception as error:
        cause = error if isinstance(error, OSError) else full_disk(error)
        if cause is None:
            raise
        number = cause.errno or 0
        raise kind(f"{subject}: {cause.strerror or cause}{REMEDIES.get(number, '')}") from error


def full_disk(error: BaseException | None) -> OSError | None:
    """The refusal to write more that an exception comes from or tells of, None where there is none.

    Libraries in Rust say it in words: "I/O error: No space left on device (os error 28)".
    """
    while error is not None:
        if isinstance(error, OSError):
            number = error.errno
        else:
            words = re.search(r"\(os error (\d+)\)", str(error))
            number = int(words[1]) if words else None
        if number in DISK_FULL:
            return OSError(number, os.strerror(number))
        error = error.__cause__ or error.__context__
    return None
