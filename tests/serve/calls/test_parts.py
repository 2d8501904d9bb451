"""Work in threads ends between its parts when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from seq2edge.errors import InputError, ServiceError
from seq2edge.serve.calls.parts import run_in_parts


@pytest.fixture
def threads():
    """One thread."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_it_gives_what_the_work_returns_or_raises(threads):
    """The check raises nothing while somebody waits."""

    def refuse(check):
        raise InputError("text: no")

    assert asyncio.run(run_in_parts(threads, lambda check: (check(), 5))) == (None, 5)
    with pytest.raises(InputError, match="text: no"):
        asyncio.run(run_in_parts(threads, refuse))


def test_work_that_is_cancelled_ends_at_its_next_part(threads, caplog):
    """The task waits for that, work that no thread began is dropped, and nothing is logged."""
    began, goes_on, ends = threading.Event(), threading.Event(), []

    def work(check):
        began.set()
        goes_on.wait(20)
        try:
            check()
        except ServiceError as error:
            ends.append(str(error))
            raise

    async def main():
        first = asyncio.create_task(run_in_parts(threads, work))
        second = asyncio.create_task(run_in_parts(threads, lambda check: ends.append("second")))
        await asyncio.to_thread(began.wait, 20)
        for task in (first, second):
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert not first.done()
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(main())
    assert ends == ["server: nobody waits for this any more"]
    assert not caplog.records
