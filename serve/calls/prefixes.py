"""What prompts begin with, kept in files: the next one computes only the rest.

A file holds what was said. It is of one bundle and one key, which is the name of its folder; its
own name is the hash of its ids:

    DIR/<bundle and key>/<ids>.npz
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import OptionError, Seq2EdgeError
from seq2edge.files.storage import file_errors
from seq2edge.runtime.backend import SavedCache
from seq2edge.runtime.request import Prefix, Request
from seq2edge.runtime.session import fingerprint, load_prefix, prefix_ids, save_prefix

if TYPE_CHECKING:
    from seq2edge.runtime.model import Model

LOG = logging.getLogger("seq2edge.serve")
LEAST = 16  # tokens that are worth a file
PENDING = 16  # files that wait to be written; what would be one more is not kept
NAME = re.compile(r"[0-9a-f]{32}/[0-9a-f]{64}\.npz")

Ids = NDArray[np.int64]


class Prefixes:
    """Files in a folder, of `most` bytes together: what was used longest ago goes first.

    For any thread. A file that cannot be read or written costs a line in the log and no more.
    """

    def __init__(self, folder: Path, most: int) -> None:
        """Raises OptionError for a folder that cannot be made or read."""
        self._folder, self._most = folder, most
        with file_errors(folder, OptionError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            files = [
                (path.stat().st_mtime, path)
                for path in folder.glob("*/*.npz")
                if NAME.fullmatch(path.relative_to(folder).as_posix())
            ]
            # By their use: what was used longest ago is first.
            self._sizes = {path: path.stat().st_size for _, path in sorted(files)}
        self._ids: dict[Path, dict[Path, Ids]] = {}  # of each folder's files
        self._lock = threading.Lock()  # of all above
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="seq2edge-prefixes")
        self._room = threading.BoundedSemaphore(PENDING)
        self._make_room(0)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        with self._lock:
            return sum(self._sizes.values())

    def begin(self, model: Model, key: str, request: Request) -> Request:
        """A request which will be kept, with the longest prefix that there is for it."""
        request = dataclasses.replace(request, keep=True)
        path = self._longest(self._place(model, key), np.array(request.prompt, dtype=np.int64))
        if path is None:
            return request
        try:
            prefix = load_prefix(path, model)
            os.utime(path)
        except (Seq2EdgeError, OSError) as error:
            self._drop(path, error)
            return request
        return request.with_prefix(prefix)

    def keep(self, model: Model, key: str, prefix: Prefix | None) -> None:
        """Write, in a thread of its own, what `Reply.kept` is, if that is worth it."""
        if (
            prefix is not None
            and len(prefix.ids) >= LEAST
            and isinstance(prefix.cache, SavedCache)
            and self._room.acquire(blocking=False)
        ):
            self._thread.submit(self._write, model, key, prefix)

    def close(self) -> None:
        """Wait for what is written."""
        self._thread.shutdown()

    def _place(self, model: Model, key: str) -> Path:
        name = hashlib.sha256(f"{fingerprint(model)} {key}".encode()).hexdigest()[:32]
        return self._folder / name

    def _longest(self, place: Path, prompt: Ids) -> Path | None:
        """The file that has most in common with a prompt, which is the one used last."""
        with self._lock:
            shared = [(_common(ids, prompt), path) for path, ids in self._of(place).items()]
            length, path = max(shared, default=(0, None))
            if length < LEAST or path is None:
                return None
            self._sizes[path] = self._sizes.pop(path)
            return path

    def _of(self, place: Path) -> dict[Path, Ids]:
        """The files of one bundle and key, which are looked at once."""
        if place not in self._ids:
            self._ids[place] = {}
            for path in [path for path in self._sizes if path.parent == place]:
                self._look_at(path)
        return self._ids[place]

    def _look_at(self, path: Path) -> None:
        try:
            self._ids[path.parent][path] = prefix_ids(path)
        except Seq2EdgeError as error:
            self._forget(path, error)

    def _write(self, model: Model, key: str, prefix: Prefix) -> None:
        place, ids = self._place(model, key), np.array(prefix.ids, dtype=np.int64)
        path = place / f"{hashlib.sha256(ids.tobytes()).hexdigest()}.npz"
        try:
            with self._lock:
                known = self._of(place)
                if any(_common(ids, other) == len(ids) for other in known.values()):
                    return
                begun = [each for each, other in known.items() if _common(ids, other) == len(other)]
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            save_prefix(path, prefix, model)
            size = path.stat().st_size
            if size > self._most:
                path.unlink()
                return
            for each in begun:  # whose conversation went on
                self._drop(each)
            self._make_room(size)
            with self._lock:
                self._sizes[path], known[path] = size, ids
        except Exception as error:  # noqa: BLE001 - nobody waits for it
            LOG.warning("prefix not kept: %s", error)
        finally:
            self._room.release()

    def _make_room(self, size: int) -> None:
        """Let go what was used longest ago, until so many bytes more are not too many."""
        with self._lock:
            held = sum(self._sizes.values())
            for path in list(self._sizes):
                if held + size <= self._most:
                    return
                held -= self._sizes[path]
                self._forget(path)

    def _drop(self, path: Path, error: Exception | None = None) -> None:
        with self._lock:
            self._forget(path, error)

    def _forget(self, path: Path, error: Exception | None = None) -> None:
        """Remove a file, with a line about what is wrong with it; one that is gone is no error."""
        known = self._sizes.pop(path, None)
        self._ids.get(path.parent, {}).pop(path, None)
        if known is not None and error is not None:
            LOG.warning("prefix dropped: %s", error)
        try:
            path.unlink(missing_ok=True)
        except OSError as refusal:
            LOG.warning("prefix not removed: %s", refusal)


def _common(one: Ids, other: Ids) -> int:
    """How many ids both begin with; `common_length` would take long for many files."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(one[:length] != other[:length])
    return int(differ[0]) if len(differ) else length
