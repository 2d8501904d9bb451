"""Calls of libraries that may take for ever, in a thread that is left behind if they do."""

from __future__ import annotations

import collections
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class _Worker(threading.Thread):
    """Calls one function after another. A program that ends does not wait for it."""

    def __init__(self) -> None:
        super().__init__(name="seq2edge-timed", daemon=True)
        self.calls: queue.SimpleQueue[tuple[Callable[[], Any], queue.SimpleQueue[Any]]]
        self.calls = queue.SimpleQueue()
        self.start()

    def run(self) -> None:
        while True:
            function, answer = self.calls.get()
            try:
                answer.put((function(), None))
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                answer.put((None, error))
            del function, answer


_idle: collections.deque[_Worker] = collections.deque()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # threads stay with the parent


def within(seconds: float, function: Callable[[], T]) -> T:
    """What the function answers, in another thread. Raises TimeoutError where it is not in time.

    It must let other threads run, and is not stopped: its thread goes on until it ends by itself.
    """
    try:
        worker = _idle.pop()
    except IndexError:
        worker = _Worker()
    answer: queue.SimpleQueue[tuple[T, BaseException | None]] = queue.SimpleQueue()
    worker.calls.put((function, answer))
    try:
        value, error = answer.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"not done within {seconds:.0f} seconds") from None
    _idle.append(worker)
    if error is not None:
        raise error
    return value
