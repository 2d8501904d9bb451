"""A call from its first byte to its last: what it may send, how long it takes, and how it ends.

A handler gets a `Call`, whose body was read, and returns a response. It is cancelled when its
client hangs up, and with it whatever it waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal, TypeAlias, TypeVar

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from seq2edge.errors import ServiceError
from seq2edge.serve.calls.events import EventStream
from seq2edge.serve.calls.failures import RequestError, log_failure, refused
from seq2edge.serve.calls.fields import Fields
from seq2edge.serve.calls.metrics import Metrics
from seq2edge.serve.calls.pool import Loaded, Pool
from seq2edge.serve.calls.prefixes import Prefixes
from seq2edge.serve.calls.settings import Settings

T = TypeVar("T")
# What a scope says of a call: the number of its key, the key's hash, the model, the status of its
# answer; phases are (name, begin, end), in ns since 1970; and what was used: (tokens read, tokens
# generated, how each answer ended).
KEY, DIGEST, MODEL = "seq2edge.key", "seq2edge.digest", "seq2edge.model"
STATUS, PHASES, USED = "seq2edge.status", "seq2edge.phases", "seq2edge.used"
Handler: TypeAlias = "Callable[[Call], Awaitable[Response]]"
Body: TypeAlias = Literal["none", "json", "form"]


class Serving:
    """What all calls share. `draining`: the server ends, and takes no more of them."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self.pool, self.settings = pool, settings
        folder = settings.cache_dir
        self.prefixes = None if folder is None else Prefixes(folder, settings.cache_size)
        self.metrics = Metrics(pool, self.prefixes)
        self.draining = False
        self.calls = 0
        self.threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="seq2edge-serve")
        # Apart, since one takes minutes: nobody else's text waits behind it.
        self.recordings = ThreadPoolExecutor(
            settings.recordings, thread_name_prefix="seq2edge-recording"
        )

    async def run(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Call it in one of the threads; what no thread began is dropped with the task."""
        work = functools.partial(function, *arguments, **named)
        return await asyncio.get_running_loop().run_in_executor(self.threads, work)

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Count a call. Raises ServiceError while the server ends."""
        if self.draining:
            raise ServiceError("server: it ends, ask another one")
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1


@dataclasses.dataclass(kw_only=True)
class Call:
    """One call. `fields` are those of a body in JSON, `form` is that of a form."""

    serving: Serving
    request: Request
    fields: Fields
    form: FormData
    held: AsyncExitStack
    ends: float  # of the loop's clock

    @property
    def client(self) -> str:
        """Who is treated as one among many."""
        return client_of(self.request.scope)

    @property
    def digest(self) -> str:
        """The hash of its key, nothing where none is needed."""
        return str(self.request.scope.get(DIGEST, ""))

    async def model(self, name: str) -> Loaded:
        """The model of that name, which stays loaded until the response was sent."""
        self.request.scope[MODEL] = name
        begin = time.time_ns()
        try:
            return await self.held.enter_async_context(self.serving.pool.lease(name, self.client))
        finally:
            self.phase("queue", begin, time.time_ns())

    def phase(self, name: str, begin: int, end: int) -> None:
        """Note what it did between two moments, in ns since 1970."""
        self.request.scope.setdefault(PHASES, []).append((name, begin, end))

    def stream(self, events: AsyncGenerator[Any, None]) -> EventStream:
        """A response of these events, until the call's deadline."""
        return EventStream(
            events,
            heartbeat=self.serving.settings.heartbeat,
            ends=self.ends,
            folders=self.serving.pool.folders,
        )

    async def run(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Call what blocks in one of the server's threads."""
        return await self.serving.run(function, *arguments, **named)


class Endpoint:
    """A handler as an ASGI application; `path` is the pattern that leads to it."""

    def __init__(self, serving: Serving, path: str, handler: Handler, body: Body) -> None:
        self.path = path
        self._serving, self._handler, self._body = serving, handler, body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call; every error but the client's leave becomes an answer."""
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        settings = self._serving.settings
        try:
            async with self._serving.admit(), AsyncExitStack() as held:
                call = await self._read(scope, receive, held)
                answer = asyncio.create_task(self._answer(call, sending))
                await _unless_gone(answer, receive)
        except ClientDisconnect:
            return
        except Exception as error:
            log_failure(scope["path"], error)
            if started:
                raise
            folders = self._serving.pool.folders
            await refused(error, settings.retry, folders)(scope, receive, send)

    async def _read(self, scope: Scope, receive: Receive, held: AsyncExitStack) -> Call:
        settings = self._serving.settings
        most = settings.upload if self._body == "form" else settings.body
        request = Request(scope, _bounded(receive, most))
        fields, form = Fields({}), FormData()
        try:
            if self._body == "json":
                _require_json(request)
                fields = Fields.of_json(await asyncio.wait_for(request.body(), settings.receive))
            elif self._body == "form":
                form = await asyncio.wait_for(request.form(max_files=1), settings.receive)
                held.push_async_callback(form.close)
        except HTTPException as error:  # a form that is none
            raise RequestError(f"body: {error.detail}", status=error.status_code) from None
        except asyncio.TimeoutError:
            raise RequestError(f"body: not here after {settings.receive:g} s", status=408) from None
        return Call(
            serving=self._serving,
            request=request,
            fields=fields,
            form=form,
            held=held,
            ends=asyncio.get_running_loop().time() + settings.deadline,
        )

    async def _answer(self, call: Call, send: Send) -> None:
        try:
            response = await asyncio.wait_for(
                self._handler(call), call.ends - asyncio.get_running_loop().time()
            )
        except asyncio.TimeoutError:
            raise RequestError(
                f"deadline: no answer after {self._serving.settings.deadline:g} s", status=504
            ) from None
        await response(call.request.scope, call.request.receive, send)


def client_of(scope: Scope) -> str:
    """Who is treated as one among many: a key's number, or an address."""
    return str(scope.get(KEY) or (scope.get("client") or [""])[0])


def _require_json(request: Request) -> None:
    """A page of another origin can send other types without asking first."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError("body: needs the header Content-Type: application/json", status=415)


async def _unless_gone(answer: asyncio.Task[None], receive: Receive) -> None:
    """Wait for it, and cancel it when the client hangs up or whoever waits is cancelled."""
    gone = asyncio.create_task(_hang_up(receive))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not answer.done():
            answer.cancel()
            await asyncio.wait({answer})
    with contextlib.suppress(asyncio.CancelledError):
        answer.result()


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _bounded(receive: Receive, most: int) -> Receive:
    """The same, which refuses a body of more bytes."""
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > most:
            raise RequestError(f"body: more than {most:,} bytes", status=413)
        return message

    return bounded


def post(serving: Serving, path: str, handler: Handler, *, body: Body = "json") -> Route:
    """A route that is asked for something."""
    return _route(serving, path, handler, ["POST"], body)


def get(serving: Serving, path: str, handler: Handler) -> Route:
    """A route that tells something."""
    return _route(serving, path, handler, ["GET"], "none")


def _route(
    serving: Serving, path: str, handler: Handler, methods: Collection[str], body: Body
) -> Route:
    return Route(path, Endpoint(serving, path, handler, body), methods=list(methods))
