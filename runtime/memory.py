"""How much memory there is, asked before much is taken: sums of plain integers, which are exact."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seq2edge.errors import CapacityError

# Of control groups, as a container mounts its own: version 2, version 1.
CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
UNKNOWN = 2**40  # bytes of a machine that does not say


@functools.cache
def _physical() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows, or a system without the names
        return UNKNOWN


@functools.cache
def _container() -> int:
    """What a container may have; "max" is any amount."""
    for file in CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError):
            return int(Path(file).read_text(encoding="ascii"))
    return UNKNOWN


def machine_bytes() -> int:
    """What this process may have at most: the machine's memory, or less where a limit is set."""
    most = min(_physical(), _container())
    try:
        import resource
    except ImportError:
        return most
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return most if limit == resource.RLIM_INFINITY else min(most, limit)


def check_bytes(needed: int, what: str) -> None:
    """Raise CapacityError where that is more than the machine has."""
    if needed > machine_bytes():
        raise CapacityError(_refusal(what, needed))


@contextmanager
def allocating(needed: int, what: str) -> Iterator[None]:
    """The same before a block that takes so much, and where the machine does not give it."""
    check_bytes(needed, what)
    try:
        yield
    except (MemoryError, OverflowError) as error:
        raise CapacityError(_refusal(what, needed)) from error


def _refusal(what: str, needed: int) -> str:
    megabytes = -(-needed // 10**6)
    return (
        f"memory: {what} need {megabytes:,} MB, this process may have "
        f"{machine_bytes() // 10**6:,} MB at most; ask for fewer rows, beams, results or tokens"
    )
