"""How a server behaves: one frozen record, with what holds where nobody says."""

from __future__ import annotations

import dataclasses
from typing import Any

from seq2edge.errors import OptionError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How a server behaves; construction raises OptionError. Times are seconds, sizes bytes."""

    # Calls that a model answers at a time; the others wait in a queue for each client.
    active: int = 64
    # Calls that wait for a model; one more is refused with 503.
    waiting: int = 256
    # Threads for work that blocks: reading texts, encoders, loading.
    threads: int = 4
    # Recordings that are transcribed at a time, each in a thread of its own.
    recordings: int = 2
    # A call ends behind it, whatever it waits for.
    deadline: float = 600.0
    # A body in JSON, and one of a form with a file.
    body: int = 4 * 2**20
    upload: int = 100 * 2**20
    # A client has so long to send its headers, and again for its body.
    receive: float = 30.0
    # A client that takes nothing for so long is cut off.
    send: float = 30.0
    # A stream in which nothing comes for so long has a comment, so that nobody closes it.
    heartbeat: float = 15.0
    # What a refused client is told to wait.
    retry: int = 1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value: Any = getattr(self, field.name)
            if value <= 0:
                raise OptionError(f"{field.name}: {value}, needs more than 0")
