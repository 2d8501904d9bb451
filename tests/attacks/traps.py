"""Faults that the runner must find, in commands that do what no command may do.

Not attacks: `test_attacks.py` checks the runner with them. Each is named after its fault.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from case import Case


def _raise() -> None:
    raise KeyError("lost")


def _say(text: str) -> Callable[[], None]:
    return lambda: sys.exit(sys.stderr.write(text) and 1)


def _compute() -> None:
    while True:
        pass


def _remember() -> None:
    kept = []
    while True:
        kept.append(b"x" * 10**8)


TRAPS: dict[str, Callable[[], object]] = {
    "Traceback": _raise,
    "killed by SIGSEGV": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "refused with 2 lines": _say("Error: one\ntwo\n"),
    "control character": _say("Error: \x1b[2J\n"),
    "exit code 3": lambda: sys.exit(3),
    "of computing": _compute,
    "GB": _remember,
    "secret.txt outside": lambda: Path("../outside/secret.txt").read_bytes(),
    "behind": lambda: Path("../ran").touch(),
    "hangs": lambda: time.sleep(60),
    "a line of more than": _say(f"Error: {'x' * 5000}\n"),
    "ended after 0 of 1": lambda: os._exit(0),
}


def trap_cases() -> Iterator[Case]:
    """All of this file, and an honest bundle."""
    yield Case(name="nothing", start="bart", change=lambda _: None, outcome="harmless")
    for fault in TRAPS:
        yield Case(
            name=fault,
            start="bart",
            change=lambda _: None,
            outcome="either",
            commands=(("trap", fault),),
        )
