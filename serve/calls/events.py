"""Server-sent events: answers in pieces, with a sign of life where nothing comes for long."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from seq2edge.serve.calls.failures import RequestError, log_failure, shape_of

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # no proxy keeps pieces back


class EventStream(Response):
    """Each object that `events` yields as one event, and `[DONE]`.

    An error, also that of `ends` (of the loop's clock), is the last event; `folders` as in
    `shape_of`. When no event comes for `heartbeat` seconds a comment does.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[Any, None],
        *,
        heartbeat: float,
        ends: float,
        folders: Mapping[str, str],
    ) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._events, self._heartbeat, self._ends = events, heartbeat, ends
        self._folders = folders

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        del receive  # whoever calls looks whether the client is there

        async def write(text: str, *, more: bool = True) -> None:
            message = {"type": "http.response.body", "body": text.encode(), "more_body": more}
            await send(message)

        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        try:
            async with contextlib.aclosing(self._pieces()) as pieces:
                async for piece in pieces:
                    await write(piece)
            last = "data: [DONE]\n\n"
        except Exception as error:  # noqa: BLE001 - the client gets it
            log_failure(scope["path"], error)
            last = _event(shape_of(error, self._folders))
        await write(last, more=False)

    async def _pieces(self) -> AsyncGenerator[str, None]:
        clock = asyncio.get_running_loop().time
        coming: asyncio.Future[Any] = asyncio.ensure_future(anext(self._events))
        try:
            while True:
                left = self._ends - clock()
                done, _ = await asyncio.wait({coming}, timeout=min(self._heartbeat, left))
                if done:
                    try:
                        yield _event(coming.result())
                    except StopAsyncIteration:
                        return
                    coming = asyncio.ensure_future(anext(self._events))
                elif clock() >= self._ends:
                    raise RequestError("deadline: the answer took too long", status=504)
                else:
                    yield ": goes on\n\n"
        finally:
            coming.cancel()
            await asyncio.wait({coming})
            await self._events.aclose()


def _event(value: Any) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"
