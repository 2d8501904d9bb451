"""Runs in forks of this process that are killed where they change something on the disk.

    for number in range(count_changes(run)):
        assert end(run, kill_at=number) == "killed"

What is killed is a process of its own: its locks end, and nothing of it is tidied up.
"""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from seq2edge.files import exchange

CHANGES = ("rename", "replace", "link", "mkdir", "rmdir", "unlink", "fsync", "truncate")
Run: TypeAlias = Callable[[], object]
End: TypeAlias = Literal["done", "failed", "killed"]


def count_changes(run: Run, *, swap: int | None = None) -> int:
    """How many changes a whole run makes."""
    source, sink = os.pipe()

    def counted() -> None:
        counter = _watch(None, swap)
        run()
        os.write(sink, str(counter["count"]).encode())

    outcome = _fork(counted)
    os.close(sink)
    with os.fdopen(source) as file:
        count = file.read()
    if outcome != "done":
        raise RuntimeError("the run failed")
    return int(count)


def end(
    run: Run,
    *,
    kill_at: int | None = None,
    kill_after: float | None = None,
    swap: int | None = None,
) -> End:
    """How a run ends that is killed at change `kill_at`, or after so many seconds, or by nobody.

    `swap` is the number of the error that the system answers to an exchange of two paths.
    """

    def watched() -> None:
        _watch(kill_at, swap)
        run()

    return _fork(watched, kill_after)


def _watch(kill_at: int | None, swap: int | None) -> dict[str, int]:
    """Count all changes of this process, and kill it before one of them."""
    counter = {"count": 0}
    lock = threading.Lock()

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **more: Any) -> Any:
            with lock:
                if counter["count"] == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                counter["count"] += 1
            return call(*arguments, **more)

        return counted

    accessor: Any = getattr(pathlib, "_NormalAccessor", None)  # of Python 3.10
    for name in CHANGES:
        counted = counting(getattr(os, name))
        setattr(os, name, counted)
        if accessor is not None and hasattr(accessor, name):
            setattr(accessor, name, staticmethod(counted))
    called = exchange._call if swap is None else lambda *_: swap
    exchange._call = counting(called)
    return counter


def _fork(run: Run, kill_after: float | None = None) -> End:
    child = os.fork()
    if not child:
        code = 1
        try:
            run()
            code = 0
        except BaseException:  # noqa: BLE001 - a fork never returns
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    if kill_after is not None:
        limit = time.monotonic() + kill_after
        while time.monotonic() < limit and not os.waitid(
            os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG
        ):
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return "killed"
    return "failed" if os.WEXITSTATUS(status) else "done"
