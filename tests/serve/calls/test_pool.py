"""A pool loads what is asked for, and lets go what is not held."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil

import pytest
import serving

from seq2edge.errors import BundleError, OptionError, ServiceError
from seq2edge.serve.calls.failures import RequestError
from seq2edge.serve.calls.pool import Pool


class Loads:
    """A loader that remembers which it loaded."""

    def __init__(self):
        self.names = []

    def __call__(self, folder):
        """A model."""
        self.names.append(folder.parent.name.split("-")[0])
        return serving.load(folder)


@contextlib.asynccontextmanager
async def pool_of(folders, loads=serving.load, **options):
    """A pool for as long as a test wants it."""
    pool = Pool(folders, loads, **options)
    try:
        yield pool
    finally:
        await pool.close()


def loaded(pool):
    """Names of what is loaded."""
    return [name for name, entry in pool.entries.items() if entry.loaded is not None]


def test_a_model_is_loaded_once_when_it_is_asked_for(folders):
    """Also by many at once and by its other name; nothing is loaded before."""

    async def run():
        loads = Loads()
        async with pool_of(folders, loads, aliases={"gpt": "writer"}) as pool:
            assert loaded(pool) == []

            async def ask(name):
                async with pool.lease(name) as model:
                    return model

            models = await asyncio.gather(*(ask(name) for name in ["writer", "gpt"] * 4))
            assert len({id(model) for model in models}) == len(loads.names) == 1
            assert loaded(pool) == ["writer"]

    asyncio.run(run())


def test_what_was_used_longest_ago_makes_room(folders):
    """Under a budget of memory, but never what a call holds."""

    async def run():
        entries = Pool(folders, serving.load).entries
        sizes = {name: entry.size for name, entry in entries.items()}
        memory = sizes["translator"] + max(sizes["writer"], sizes["embedder"])
        async with pool_of(folders, memory=memory) as pool:
            async with pool.lease("translator"):
                async with pool.lease("writer"):
                    pass
                async with pool.lease("embedder"):
                    assert loaded(pool) == ["translator", "embedder"]
                    with pytest.raises(ServiceError, match="writer: those in use leave no memory"):
                        async with pool.lease("writer"):
                            pass
            async with pool.lease("writer"):
                assert loaded(pool) == ["translator", "writer"]

    asyncio.run(run())


def test_what_nobody_used_for_long_is_let_go(folders):
    """At the next sweep, and loaded again when it is asked for."""

    async def run():
        async with pool_of(folders, idle=0) as pool:
            async with pool.lease("writer") as first:
                await asyncio.sleep(0.01)
                await pool.sweep()
                assert loaded(pool) == ["writer"]
            await asyncio.sleep(0.01)
            await pool.sweep()
            assert loaded(pool) == []
            async with pool.lease("writer") as second:
                assert second is not first

    asyncio.run(run())


def test_a_folder_that_was_removed_fails_its_calls_alone(folders, tmp_path):
    """And those of its name that are loaded go on; one that is put back is loaded."""

    async def run():
        folder = tmp_path / "bundle"
        shutil.copytree(folders["writer"], folder)
        async with pool_of({**folders, "gone": folder}) as pool:
            folder.rename(tmp_path / "away")
            for _ in range(2):
                with pytest.raises(BundleError, match=re.escape(f"{folder}: ")):
                    async with pool.lease("gone"):
                        pass
            async with pool.lease("writer"):
                pass
            (tmp_path / "away").rename(folder)
            async with pool.lease("gone") as model:
                assert model.name == "gone"
                shutil.rmtree(folder)
            async with pool.lease("gone") as again:
                assert again is model

    asyncio.run(run())


def test_a_task_that_is_cancelled_while_it_waits_leaves_the_load_to_others(folders):
    """And holds nothing."""

    async def run():
        async with pool_of(folders) as pool:

            async def ask():
                async with pool.lease("writer"):
                    pass

            first, second = asyncio.create_task(ask()), asyncio.create_task(ask())
            await asyncio.sleep(0)
            first.cancel()
            await second
            entry = pool.entries["writer"]
            assert first.cancelled()
            assert (entry.users, entry.turns.active) == (0, 0)

    asyncio.run(run())


def test_what_cannot_be_served_is_refused_at_once(folders, tmp_path):
    """An alias of nothing or of another's name, a model above the budget, no bundle."""
    for aliases in ({"x": "nothing"}, {"writer": "translator"}):
        with pytest.raises(OptionError, match="alias"):
            Pool(folders, serving.load, aliases=aliases)
    with pytest.raises(OptionError, match="all models may have 10; allow more"):
        Pool(folders, serving.load, memory=10)
    with pytest.raises(BundleError):
        Pool({"none": tmp_path}, serving.load)
    with pytest.raises(RequestError, match="'x' is not served, there are: translator, writer"):
        Pool(folders, serving.load).entry("x")
