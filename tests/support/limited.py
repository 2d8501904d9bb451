"""Limits for tests of hostile input: what would hang or fill the memory fails instead."""

from __future__ import annotations

import contextlib
import faulthandler
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType


def _late(number: int, frame: FrameType | None) -> None:
    raise AssertionError("took too long")


@contextlib.contextmanager
def limited(seconds: float = 10, memory: int = 2**30) -> Iterator[None]:
    """A block may take so many seconds of the thread, and bytes beside those that are taken.

    What waits ends after six times as long on the clock, since others may use the machine; what no
    signal interrupts, a library's own loop, ends the whole run with a trace.
    """
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, _late)
    faulthandler.dump_traceback_later(12 * seconds, exit=True)
    resource.setrlimit(resource.RLIMIT_AS, (taken + memory, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, 6 * seconds)
    begin = time.thread_time()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)
    assert time.thread_time() - begin < seconds
