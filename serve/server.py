"""The server: connections that cannot be left open, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from seq2edge.errors import OptionError, foreign_errors
from seq2edge.serve.calls.call import Serving
from seq2edge.serve.calls.settings import Settings

LOG = logging.getLogger("seq2edge.serve")
BACKLOG = 256  # connections that are taken at once, before room is made for them
FILES = 128  # that models, logs and libraries have open


class Connection(H11Protocol):
    """A connection that ends when its client sends no request, or takes no answer, for long.

    When there are too many, the one that has been idle for longest makes room for a new one.
    """

    settings: Settings

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.idle_since: float | None = None
        self._await_request()
        if len(self.connections) > self.settings.connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        super().connection_lost(exc)
        for timer in self._timers.values():
            timer.cancel()

    def handle_events(self) -> None:
        """See H11Protocol: what begins a request ends the wait for it."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self.idle_since = None
            self._stop("receive")

    def on_response_complete(self) -> None:
        """See H11Protocol."""
        complete = self.cycle
        super().on_response_complete()
        if self.cycle is complete:  # else one that was sent ahead is answered already
            self._await_request()

    def pause_writing(self) -> None:
        """See asyncio."""
        super().pause_writing()
        self._start("send", self.settings.send)

    def resume_writing(self) -> None:
        """See asyncio."""
        super().resume_writing()
        self._stop("send")

    def timeout_keep_alive_handler(self) -> None:
        """See H11Protocol: what its client does not take is not kept."""
        super().timeout_keep_alive_handler()
        self._start("send", self.settings.send)

    def _await_request(self) -> None:
        self.idle_since = time.monotonic()
        self._start("receive", self.settings.receive)

    def _make_room(self) -> None:
        idle = [
            (other.idle_since, id(other), other)
            for other in self.connections
            if isinstance(other, Connection) and other.idle_since is not None
        ]
        oldest = min(idle)[2]
        self.connections.discard(oldest)  # so that the next one takes another
        oldest.transport.abort()

    def _start(self, name: str, seconds: float) -> None:
        self._stop(name)
        self._timers[name] = self.loop.call_later(seconds, self.transport.abort)

    def _stop(self, name: str) -> None:
        if name in self._timers:
            self._timers.pop(name).cancel()


class Server(uvicorn.Server):
    """Ends at the first signal when nothing is answered any more, at the next one at once."""

    def __init__(self, config: uvicorn.Config, serving: Serving) -> None:
        super().__init__(config)
        self._serving = serving
        self._ends = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn."""
        if self._serving.draining:
            super().handle_exit(sig, frame)
        self._serving.draining = True
        self._ends = time.monotonic() + self._serving.settings.drain

    async def on_tick(self, counter: int) -> bool:
        """See uvicorn."""
        if self._serving.draining and (not self._serving.calls or time.monotonic() > self._ends):
            self.should_exit = True
        return await super().on_tick(counter)


def make_server(app: Starlette) -> Server:
    """A server of an application of `make_app`, by its settings."""
    serving: Serving = app.state.serving
    settings = serving.settings
    kind: Any = type("Connection", (Connection,), {"settings": settings})
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=kind,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        proxy_headers=False,
        # Clients keep connections for 5 s as a rule: one that ended earlier here would lose a call.
        timeout_keep_alive=60,
        timeout_graceful_shutdown=1,  # what is answered was waited for
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.certificate_key,
    )
    with foreign_errors(OptionError, f"{settings.certificate}: no certificate with this key"):
        config.load()
    return Server(config, serving)


def run(app: Starlette) -> None:
    """Serve an application of `make_app` until a signal ends it.

    Raises OptionError for an address that is taken or none, for files that are no certificate, and
    for more connections than the system lets this process have.
    """
    settings: Settings = app.state.serving.settings
    allow_files(settings.connections)
    server = make_server(app)
    place = f"{settings.host}:{settings.port}"
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with foreign_errors(OptionError, f"{place}: cannot listen there"):
        listener = socket.create_server((settings.host, settings.port), family=family)
    with listener:
        scheme = "https" if settings.certificate else "http"
        host, port = listener.getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        LOG.info("listening", extra={"url": f"{scheme}://{host}:{port}"})
        server.run([listener])


def allow_files(connections: int) -> None:
    """Raise this process's limit of open files to what so many connections need.

    Each may also hold a file that is sent. Raises OptionError where the system allows no more.
    """
    needed = 2 * connections + BACKLOG + FILES
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in (soft, most) and needed > most:
        raise OptionError(
            f"connections: {connections:,} need {needed:,} open files, the system allows {most:,} "
            "(ulimit -Hn); allow fewer"
        )
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))
