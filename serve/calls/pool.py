"""The models that a server has: loaded when they are asked for, let go when others need the room.

For one event loop, but for what loads them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from seq2edge.bundle import Bundle
from seq2edge.bundle.manifest import Manifest
from seq2edge.errors import OptionError, ServiceError
from seq2edge.runtime.service import Service
from seq2edge.serve.calls.failures import RequestError
from seq2edge.serve.calls.turns import Turns

if TYPE_CHECKING:
    from seq2edge.runtime.model import Model

T = TypeVar("T")
LOG = logging.getLogger("seq2edge.serve")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model that is ready, and the service that decodes for all its callers."""

    name: str
    model: Model
    service: Service


class Entry:
    """A bundle that can be asked for; `users` are calls that hold it."""

    def __init__(self, name: str, folder: Path, turns: Turns) -> None:
        """Raises BundleError for a folder that is no bundle."""
        self.name, self.folder, self.turns = name, folder, turns
        bundle = Bundle.open(folder)
        self.size = bundle.size
        self.task = bundle.manifest.task
        self.uses = _uses(bundle.manifest)
        self.created = int(folder.stat().st_mtime)
        self.users = 0
        self.used = time.monotonic()
        self.loaded: Loaded | None = None
        self.loading: asyncio.Task[None] | None = None


def _uses(manifest: Manifest) -> list[str]:
    """What a bundle can be asked for, more exactly than by its task."""
    if manifest.task == "classify" and len(manifest.labels) == 1:
        return ["rerank"]
    if manifest.task != "generate":
        return [manifest.task]
    if manifest.kind == "encoder-decoder":
        return ["translate"]
    chats = manifest.tokenizer is not None and manifest.tokenizer.chat_template is not None
    return ["chat", "complete"] if chats else ["complete"]


class Pool:
    """Bundles by name. One that is asked for is loaded; `load` is called in a thread.

    The files of all that are loaded have `memory` bytes at most (None: any number): what was used
    longest ago goes first, and nothing that a call holds. What nobody used for `idle` seconds
    (None: ever) goes at the next `sweep`. Of each model `active` calls are answered at a time, and
    `waiting` wait.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        load: Callable[[Path], Model],
        *,
        aliases: Mapping[str, str] | None = None,
        memory: int | None = None,
        idle: float | None = None,
        active: int = 64,
        waiting: int = 256,
    ) -> None:
        """Raises BundleError for a folder that is no bundle, OptionError for what cannot be."""
        self.entries = {
            name: Entry(name, folder, Turns(active, waiting)) for name, folder in folders.items()
        }
        self._aliases = dict(aliases or {})
        for alias, name in self._aliases.items():
            if name not in self.entries or alias in self.entries:
                raise OptionError(f"alias {alias}={name}: needs a new name for one of {self.names}")
        for entry in self.entries.values():
            if memory is not None and entry.size > memory:
                raise OptionError(
                    f"{entry.folder}: its files have {entry.size:,} bytes, all models may have "
                    f"{memory:,}; allow more"
                )
        self._load, self._memory, self._idle = load, memory, idle
        self._room = asyncio.Lock()
        # One at a time, so that what is loaded is known.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="seq2edge-load")

    @property
    def names(self) -> str:
        """All of them, for a message."""
        return ", ".join([*self.entries, *self._aliases])

    @property
    def folders(self) -> dict[str, str]:
        """Names by where they lie."""
        return {str(entry.folder): name for name, entry in self.entries.items()}

    @property
    def aliases(self) -> Mapping[str, str]:
        """Other names, and what they stand for."""
        return self._aliases

    def entry(self, name: str) -> Entry:
        """What is served by that name. Raises RequestError."""
        name = self._aliases.get(name, name)
        if name not in self.entries:
            raise RequestError(
                f"model: {name!r:.60} is not served, there are: {self.names}",
                status=404,
                param="model",
                code="model_not_found",
            )
        return self.entries[name]

    @asynccontextmanager
    async def lease(self, name: str, client: str = "") -> AsyncIterator[Loaded]:
        """The model of that name, which stays loaded meanwhile.

        Raises RequestError for another name, ServiceError where there is no place or no room, and
        what loading raises.
        """
        entry = self.entry(name)
        async with entry.turns.turn(client):
            entry.users += 1
            try:
                yield await self._ready(entry)
            finally:
                entry.users -= 1
                entry.used = time.monotonic()

    async def sweep(self) -> None:
        """Let go what nobody used for long."""
        async with self._room:
            for entry in self.entries.values():
                idle = time.monotonic() - entry.used
                if self._idle is not None and not entry.users and idle > self._idle:
                    await self._unload(entry)

    async def close(self) -> None:
        """Let go everything; what is decoded ends with a ServiceError."""
        async with self._room:
            for entry in self.entries.values():
                await self._unload(entry)
        self._thread.shutdown()

    async def _ready(self, entry: Entry) -> Loaded:
        while entry.loaded is None:
            if entry.loading is None:
                entry.loading = asyncio.create_task(self._fill(entry))
            await asyncio.shield(entry.loading)  # others may wait for it too
        return entry.loaded

    async def _fill(self, entry: Entry) -> None:
        try:
            async with self._room:
                await self._make_room(entry)
                model = await self._in_thread(lambda: self._load(entry.folder))
                LOG.info("loaded: %s", model.reason, extra={"model": entry.name})
                # How many wait is bounded by turns.
                service = Service(model, requests=None)
                entry.loaded = Loaded(name=entry.name, model=model, service=service)
        finally:
            entry.loading = None

    async def _make_room(self, entry: Entry) -> None:
        loaded = sorted(
            (other for other in self.entries.values() if other.loaded is not None),
            key=lambda other: other.used,
        )
        for other in loaded:
            if self._fits(entry):
                return
            if not other.users:
                await self._unload(other)
        if not self._fits(entry):
            raise ServiceError(
                f"model {entry.name}: those in use leave no memory for it; ask again later"
            )

    def _fits(self, entry: Entry) -> bool:
        if self._memory is None:
            return True
        held = sum(other.size for other in self.entries.values() if other.loaded is not None)
        return held + entry.size <= self._memory

    async def _unload(self, entry: Entry) -> None:
        loaded, entry.loaded = entry.loaded, None
        if loaded is not None:
            await self._in_thread(loaded.service.close)
            LOG.info("unloaded", extra={"model": entry.name})

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
