"""Two paths exchanged in one step, and what is written forced onto the disk."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Any

AT_FDCWD, EXCHANGE = -100, 2  # linux/fcntl.h; macOS's RENAME_SWAP is 2 as well
# What kernels, file systems and containers' filters answer that know no exchange.
UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM)


def exchange(first: Path, second: Path) -> None:
    """Exchange two paths of one file system: whoever looks sees both as before, or both exchanged.

    Raises OSError, with one of UNSUPPORTED where that cannot be done here.
    """
    code = _call(os.fsencode(first), os.fsencode(second))
    if code:
        raise OSError(code, os.strerror(code), str(second))


def _call(first: bytes, second: bytes) -> int:
    """The system's call, renameat2 of Linux or renamex_np of macOS; its error's number."""
    library: Any = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    if hasattr(library, "renameat2"):
        failed = library.renameat2(AT_FDCWD, first, AT_FDCWD, second, EXCHANGE)
    elif hasattr(library, "renamex_np"):
        failed = library.renamex_np(first, second, EXCHANGE)
    else:
        return errno.ENOSYS
    return ctypes.get_errno() if failed else 0


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
