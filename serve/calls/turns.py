"""Who is next: a bounded number at a time, and the clients that wait one after the other."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from seq2edge.errors import ServiceError


class Turns:
    """So many hold a turn at a time, and so many wait; a client that asks for more waits longer.

    Each client has a queue, and the queues are served in turn. One client alone fills half of the
    places to wait, so that another finds one. For one event loop.
    """

    def __init__(self, active: int, waiting: int) -> None:
        self.active = 0
        self._most, self._places = active, waiting
        self._queues: dict[str, collections.deque[asyncio.Future[None]]] = {}

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._queues.values()))

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for a turn and hold it. Raises ServiceError where no place to wait is left."""
        if self.active < self._most:
            self.active += 1
        else:
            await self._wait(client)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, client: str) -> None:
        queue = self._queues.get(client, ())
        if self.waiting >= self._places or len(queue) >= max(1, self._places // 2):
            raise ServiceError(
                f"server: {self.waiting} requests wait for this model, {len(queue)} of them yours; "
                "ask again later"
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(client, collections.deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(client, turn)
            else:  # it came at the same time
                self._pass_on()
            raise

    def _leave(self, client: str, turn: asyncio.Future[None]) -> None:
        queue = self._queues.get(client)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._queues[client]

    def _pass_on(self) -> None:
        """To the first client that waits, which is then the last."""
        while self._queues:
            client = next(iter(self._queues))
            queue = self._queues.pop(client)
            turn = queue.popleft()
            if queue:
                self._queues[client] = queue
            if not turn.cancelled():  # whose task has not noticed it yet
                turn.set_result(None)
                return
        self.active -= 1
