"""How a server behaves: one frozen record, with what holds where nobody says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from seq2edge.errors import OptionError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How a server behaves; construction raises OptionError. Times are seconds, sizes bytes."""

    # Where it listens: loopback, which no other machine reaches; port 0 takes a free one.
    host: str = "127.0.0.1"
    port: int = 8000
    # Files of the certificate and its key, for TLS.
    certificate: Path | None = None
    certificate_key: Path | None = None
    # A file of keys, a line each, one of which every call but that of /health has to bear.
    keys: Path | None = None
    # Whether there is a page at `/`.
    page: bool = True
    # Names by which it may be asked, beside its own on loopback; by default any elsewhere.
    hosts: tuple[str, ...] = ()
    # Origins whose pages may call it; none by default.
    origins: tuple[str, ...] = ()
    # Where a collector of OpenTelemetry takes spans by OTLP over HTTP; None: nowhere.
    traces: str | None = None
    # Connections at a time; behind them idle ones are closed for new ones.
    connections: int = 1000
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
    # At its end, calls that are answered have so long.
    drain: float = 30.0
    # A client has so long to send its headers, and again for its body.
    receive: float = 30.0
    # A client that takes nothing for so long is cut off.
    send: float = 30.0
    # A stream in which nothing comes for so long has a comment, so that nobody closes it.
    heartbeat: float = 15.0
    # Where prefixes of prompts are kept, and how many bytes of them; nowhere by default.
    cache_dir: Path | None = None
    cache_size: int = 2**30
    # What a refused client is told to wait.
    retry: int = 1

    @property
    def loopback(self) -> bool:
        """Whether no other machine reaches it."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """What requests may name as their host; empty: anything."""
        return self.hosts + (("localhost", "[::1]", "127.0.0.1", self.host) * self.loopback)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value: Any = getattr(self, field.name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if field.name != "port" and number and value <= 0:
                raise OptionError(f"{field.name}: {value}, needs more than 0")
        if (self.certificate is None) != (self.certificate_key is None):
            raise OptionError("certificate: TLS needs its file and that of its key")
