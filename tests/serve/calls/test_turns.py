"""Turns go round between clients, and whoever leaves frees a place."""

from __future__ import annotations

import asyncio

import pytest

from seq2edge.errors import ServiceError
from seq2edge.serve.calls.turns import Turns


class Crowd:
    """Tasks that each want a turn, and the order in which they had it."""

    def __init__(self, active, waiting):
        self.turns = Turns(active, waiting)
        self.order = []
        self.going = asyncio.Event()

    async def want(self, client):
        """Hold a turn until all may go."""
        async with self.turns.turn(client):
            self.order.append(client)
            await self.going.wait()

    async def join(self, clients):
        """A task for each letter, which waits or holds its turn when this returns."""
        tasks = [asyncio.create_task(self.want(client)) for client in clients]
        await asyncio.sleep(0)
        return tasks


def test_clients_that_wait_are_served_one_after_the_other():
    """Who asks for much does not keep others back; each client's own order stays."""

    async def run():
        crowd = Crowd(1, 20)
        tasks = await crowd.join("aaaabbc")
        crowd.going.set()
        await asyncio.gather(*tasks)
        assert "".join(crowd.order) == "a" + "abcaba"
        assert (crowd.turns.active, crowd.turns.waiting) == (0, 0)

    asyncio.run(run())


def test_there_are_as_many_places_to_wait_as_said():
    """One client takes half of them at most."""

    async def run():
        crowd = Crowd(1, 4)
        tasks = await crowd.join("aaa")
        with pytest.raises(ServiceError, match="2 requests wait for this model, 2 of them yours"):
            await crowd.want("a")
        tasks += await crowd.join("bb")
        with pytest.raises(ServiceError, match="4 requests wait for this model, 0 of them yours"):
            await crowd.want("c")
        crowd.going.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())


@pytest.mark.parametrize("cancelled", [0, 1, 2])
def test_who_is_cancelled_leaves(cancelled):
    """While it holds a turn and while it waits, and the next one comes."""

    async def run():
        crowd = Crowd(1, 20)
        tasks = await crowd.join("abc")
        tasks[cancelled].cancel()
        crowd.going.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        # The first one held its turn before it was cancelled.
        assert crowd.order == [
            "a",
            *("bc" if not cancelled else "bc".replace("abc"[cancelled], "")),
        ]
        assert (crowd.turns.active, crowd.turns.waiting) == (0, 0)

    asyncio.run(run())


def test_a_turn_that_comes_to_whom_is_cancelled_is_passed_on():
    """Both at once."""

    async def run():
        crowd = Crowd(1, 20)
        first, second, third = await crowd.join("abc")
        crowd.going.set()
        for _ in range(20):
            await asyncio.sleep(0)
            if first.done():
                break
        second.cancel()
        await asyncio.gather(first, second, third, return_exceptions=True)
        assert crowd.turns.active == 0
        assert crowd.order[-1] == "c"

    asyncio.run(run())
