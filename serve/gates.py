"""What every request passes: it is counted and logged, is meant for here, and has a key."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import sys
import time
from collections.abc import Collection
from datetime import datetime, timezone
from pathlib import Path

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seq2edge.errors import OptionError, foreign_errors
from seq2edge.serve.calls.call import DIGEST, KEY, MODEL, STATUS, Serving, client_of
from seq2edge.serve.calls.failures import failure
from seq2edge.serve.routes import page

LOG = logging.getLogger("seq2edge.serve")
PROBES = ("/health", "/ready")  # what an orchestrator asks, without a key
OPEN = (*PROBES, *page.PATHS)  # the same, and a page without data
LEAST_KEY = 16  # characters, so that nobody guesses it
FIELDS = ("route", "method", "status", "seconds", "model", "client")  # of a line about a call
SHOWN = (*FIELDS, "url")


class Watch:
    """Counts each request and writes a line about it: no texts, no keys."""

    def __init__(self, app: ASGIApp, serving: Serving) -> None:
        self._app, self._metrics = app, serving.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.monotonic()
        scope[STATUS] = 499  # its client left before there was an answer

        async def sending(message: Message) -> None:
            scope[STATUS] = message.get("status", scope[STATUS])
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            seconds = time.monotonic() - begin
            endpoint = scope.get("endpoint")
            route = getattr(endpoint, "path", getattr(endpoint, "__name__", "none"))
            self._metrics.answered(route, scope[STATUS], seconds)
            values = (
                route,
                scope["method"],
                scope[STATUS],
                round(seconds, 6),
                scope.get(MODEL),
                client_of(scope),
            )
            LOG.info("request", extra=dict(zip(FIELDS, values, strict=True)))


class Hosts:
    """Lets pass what names this server as its host, and probes.

    So no page whose own name was made to lead here calls it (DNS rebinding): its browser names that
    page's host. Starlette's check answers without OpenAI's shape, and has probes name one too.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app, self._hosts = app, frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and scope["path"] not in PROBES:
            header = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
            if re.sub(r":\d*$", "", header).lower() not in self._hosts:
                message = f"Host: {header!r:.60} is not served here; --allowed-host lets it in"
                await JSONResponse(failure(421, message), 421)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Keys:
    """Lets pass who has one of the keys, and whoever asks for what is open."""

    def __init__(self, app: ASGIApp, digests: list[bytes]) -> None:
        self._app, self._digests = app, digests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and scope["path"] not in OPEN:
            number = self._number(dict(scope["headers"]).get(b"authorization", b""))
            if number is None:
                message = "key: missing or wrong; send Authorization: Bearer and a key"
                headers = {"WWW-Authenticate": "Bearer"}
                refusal = JSONResponse(failure(401, message), 401, headers=headers)
                await refusal(scope, receive, send)
                return
            scope[KEY], scope[DIGEST] = f"key {number + 1}", self._digests[number].hex()
        await self._app(scope, receive, send)

    def _number(self, header: bytes) -> int | None:
        """Which key it is, in a time that does not tell how much of it is right."""
        kind, _, key = header.partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        same = [hmac.compare_digest(digest, known) for known in self._digests]
        return same.index(True) if kind.lower() == b"bearer" and any(same) else None


def read_keys(file: Path) -> list[bytes]:
    """The SHA-256 of each key of a file; lines with # are remarks. Raises OptionError."""
    with foreign_errors(OptionError, f"{file}: keys cannot be read"):
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys or min(map(len, keys)) < LEAST_KEY:
        raise OptionError(f"{file}: needs keys, one a line, of {LEAST_KEY} characters or more")
    return [hashlib.sha256(key.encode()).digest() for key in keys]


class JsonLines(logging.Formatter):
    """A record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        moment = datetime.fromtimestamp(record.created, tz=timezone.utc)
        values = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **{name: getattr(record, name) for name in SHOWN if hasattr(record, name)},
        }
        if record.exc_info:
            values["error"] = self.formatException(record.exc_info)
        return json.dumps(values, ensure_ascii=False)


def write_logs() -> None:
    """Write what the server and its library say to stderr, a line of JSON each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.captureWarnings(capture=True)
    for name in ("seq2edge.serve", "uvicorn.error", "py.warnings", "opentelemetry"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
