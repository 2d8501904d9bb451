"""Hidden folders beside a destination, in which it is made; those of killed runs are swept.

    .seq2edge-0123456789ab.partial/
        lock    held by the run that works here
        new     what shall be at the destination
        note    its name, and
        old     what was there: where the file system cannot exchange both in one step

A lock ends with the process that holds it, so whoever can take it has found a leftover. A folder
without one, and one whose lock says nothing (no locks on this file system, or those of another
machine on a shared one), is a leftover when nothing in it has changed for a day. Nothing here
follows a link.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from seq2edge.files.exchange import UNSUPPORTED, exchange, sync, sync_folder

LOCK, NEW, NOTE, OLD = "lock", "new", "note", "old"
PATTERN = re.compile(r"\.seq2edge-[0-9a-f]{12}\.partial")
LONGEST_NOTE = 1024  # bytes, more than names have
AGE = 24 * 60 * 60  # seconds
# Of /proc/self/mountinfo: several machines may write there, perhaps with locks of their own.
SHARED = ("nfs", "cifs", "smb", "9p", "fuse", "ceph", "lustre", "gpfs", "afs", "virtiofs")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leftover:
    """What a killed run left: where it lies, or lay, and how many bytes without it are free."""

    path: Path
    size: int


@contextlib.contextmanager
def workspace(parent: Path) -> Iterator[Path]:
    """A new hidden folder in `parent`, removed at the end; leftovers beside it are swept.

    Raises OSError where none can be made.
    """
    sweep(parent)
    path, lock = _make(parent)
    try:
        yield path
    finally:
        _discard(path, lock)


def temporary_folder() -> contextlib.AbstractContextManager[Path]:
    """The same where the system has its temporary files."""
    return workspace(Path(tempfile.gettempdir()))


def put_folder(work: Path, path: Path) -> None:
    """Put the `new` of a workspace beside `path` in its place; what was there is removed with it.

    At any moment the old or the new is at `path`, or, where the file system exchanges nothing,
    the next reader or writer puts the new there. Raises OSError, and then `path` is as it was.
    """
    new = work / NEW
    sync_folder(new)
    if not os.path.lexists(path):
        new.rename(path)
        sync(path.parent)
        return
    sync(work)
    try:
        exchange(new, path)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        _put_noted(work, path)
        return
    sync(path.parent)
    sync(work)


def _put_noted(work: Path, path: Path) -> None:
    """The same in two steps, of which a note tells that the second is due."""
    note = work / NOTE
    note.write_bytes(os.fsencode(path.name))
    for written in (note, work, path.parent):
        sync(written)
    path.rename(work / OLD)
    try:
        (work / NEW).rename(path)
    except OSError:
        if os.path.lexists(work / NEW):  # else a reader was faster
            (work / OLD).rename(path)
            raise
    for written in (path.parent, work):
        sync(written)


def finish_replacement(path: Path) -> None:
    """Where nothing is at `path` since a run was cut while it replaced it, put the new there.

    Raises OSError where this may not be written.
    """
    path = Path(os.path.realpath(path))
    if os.path.lexists(path):
        return
    due = [work for work in _workspaces(path.parent) if _due(work) == path]
    for work in due:
        _finish(work)
    if due:
        sweep(path.parent)


def sweep(parent: Path, *, keep: bool = False) -> list[Leftover]:
    """Remove what killed runs left in a folder, and finish what they replaced.

    With `keep` all stays as it is. What cannot be read or removed is left out.
    """
    swept = []
    for path in _workspaces(parent):
        with contextlib.suppress(OSError):
            if not stat.S_ISDIR(path.lstat().st_mode):
                lock = -1 if _is_old(path) else None
            else:
                lock = _take(path)
            if lock is None:
                continue
            entries = _entries(path)
            size = sum(e.st_size for e in entries if stat.S_ISREG(e.st_mode) and e.st_nlink == 1)
            if not keep:
                _discard(path, lock)
            elif lock >= 0:
                os.close(lock)
            if keep or not os.path.lexists(path):
                swept.append(Leftover(path=path, size=size))
    return swept


def _workspaces(parent: Path) -> list[Path]:
    try:
        with os.scandir(parent) as entries:
            return sorted(parent / e.name for e in entries if PATTERN.fullmatch(e.name))
    except OSError:
        return []


def _make(parent: Path) -> tuple[Path, int]:
    """A new workspace and the handle of its lock; whoever sweeps may be faster than the lock."""
    while True:
        path = parent / f".seq2edge-{secrets.token_hex(6)}.partial"
        path.mkdir()
        try:
            lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileNotFoundError:
            continue
        except OSError:
            path.rmdir()
            raise
        try:
            os.write(lock, platform.node().encode())
            if _lock(lock) is not False and _is_same(path, lock):
                return path, lock
        except OSError:
            _discard(path, lock)
            raise
        os.close(lock)


def _take(path: Path) -> int | None:
    """The handle of a leftover's lock, -1 where it has none; None where a live run works."""
    try:
        lock = os.open(path / LOCK, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        # It has no lock yet, or no longer: of nothing, nothing is lost.
        return -1 if not any(path.iterdir()) or _is_old(path) else None
    locked = _lock(lock)
    if locked and _is_ours(path, lock):
        dead = _is_same(path, lock)
    else:
        dead = locked is not False and _is_old(path)
    if dead:
        return lock
    os.close(lock)
    return None


def _lock(handle: int) -> bool | None:
    """Take a lock until the process ends: False where another has it, None where none works."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _is_ours(path: Path, lock: int) -> bool:
    """Whether the lock counts here: of a disk of this machine, or made by it on a shared one."""
    return not _is_shared(path) or os.pread(lock, 256, 0) == platform.node().encode()


def _is_shared(path: Path) -> bool:
    """Whether the file system is one that several machines write to."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    for line in lines.splitlines():
        mount, _, file_system = line.partition(" - ")
        if mount.split()[2] == number:
            return file_system.startswith(SHARED)
    return False


def _is_same(path: Path, lock: int) -> bool:
    """Whether the lock's file is still that of the workspace."""
    try:
        return os.path.samestat(os.fstat(lock), (path / LOCK).lstat())
    except OSError:
        return False


def _is_old(path: Path) -> bool:
    return max(entry.st_mtime for entry in _entries(path)) < time.time() - AGE


def _entries(path: Path) -> Iterator[os.stat_result]:
    """Of a file or folder and all below it."""
    yield path.lstat()
    if path.is_dir() and not path.is_symlink():
        for below in path.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                yield below.lstat()


def _due(work: Path) -> Path | None:
    """Where the `new` of a workspace belongs, when only its second step is missing."""
    if not (os.path.lexists(work / NEW) and os.path.lexists(work / OLD)):
        return None
    try:
        with (work / NOTE).open("rb") as file:
            name = os.fsdecode(file.read(LONGEST_NOTE))
    except OSError:
        return None
    path = work.parent / name
    return None if name != path.name or name in ("", "..") or os.path.lexists(path) else path


def _finish(work: Path) -> None:
    """Take the second step of a replacement, where it is due."""
    path = _due(work)
    if path is not None:
        with contextlib.suppress(FileNotFoundError):  # another reader was faster
            (work / NEW).rename(path)
        sync(path.parent)


def _discard(work: Path, lock: int) -> None:
    """Finish what is due and remove a workspace: its note first, its lock last.

    Where that fails it stays for the next who sweeps. One without a lock that is not old may be
    about to get it: it goes only while it is empty.
    """
    with contextlib.suppress(OSError):
        try:
            _finish(work)
            if not stat.S_ISDIR(work.lstat().st_mode):
                work.unlink()
                return
            whole = lock >= 0 or _is_old(work)
            for path in sorted(work.iterdir(), key=lambda path: path.name != NOTE) if whole else ():
                if path.name != LOCK:
                    _remove(path)
        finally:
            if lock >= 0:
                os.close(lock)
        if lock >= 0:
            (work / LOCK).unlink()
        work.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()
