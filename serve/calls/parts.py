"""Work of the library that takes long and cannot be interrupted: it ends between its parts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias, TypeVar

from seq2edge.errors import ServiceError

T = TypeVar("T")
PART = 64  # texts that are read between two looks at who waits
# What work calls before each of its parts; it raises where nobody waits for the rest.
Check: TypeAlias = Callable[[], None]


def parts_of(items: Sequence[T], check: Check) -> Iterator[tuple[int, Sequence[T]]]:
    """Some items after the other, each part with the place of its first."""
    for start in range(0, len(items), PART):
        check()
        yield start, items[start : start + PART]


async def run_in_parts(threads: ThreadPoolExecutor, work: Callable[[Check], T]) -> T:
    """What the work returns, which one of the threads does.

    Where the task is cancelled the work ends before its next part, and the task with it: until
    then it holds its model and its turn.
    """
    gone = threading.Event()

    def check() -> None:
        if gone.is_set():
            raise ServiceError("server: nobody waits for this any more")

    future = threads.submit(work, check)
    result = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(result)
    except asyncio.CancelledError:
        gone.set()
        if not future.cancel():
            await asyncio.gather(result, return_exceptions=True)
        raise
