"""TensorRT-RTX's compiled kernels of an engine, kept on disk from one process to the next.

TensorRT-RTX compiles an engine's kernels on the device, general ones when a context is made and
others for the shapes that come. What a process compiled is written to the user's cache when its
engine was checked and when it is dropped, and read by the next. The library itself refuses what
another release, device or driver compiled, and compiles again: it is never an error.
"""

from __future__ import annotations

import contextlib
import weakref
from pathlib import Path
from typing import Any

from seq2edge.bundle.engine_info import EngineInfo
from seq2edge.files.user_cache import cache_folder, file_name, write_cached
from seq2edge.runtime.backends.device import Device

FOLDER = "kernels"  # of the user's cache
DIGITS = 16  # of the engine's hash


class EngineKernels:
    """Of one engine: shared by all its contexts, so that a kernel is compiled once."""

    def __init__(self, info: EngineInfo, device: Device) -> None:
        self.file = _file(info, device)
        self._cache: Any = None
        self._known = b""

    def share(self, config: Any) -> None:
        """Let contexts of this runtime configuration use what is compiled, and add to it."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            self._read()
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Write what is compiled, if that is more than was read."""
        if self._cache is None or self.file is None:
            return
        data = bytes(self._cache.serialize())
        if data == self._known:
            return
        with contextlib.suppress(OSError):  # then the next process compiles again
            write_cached(self.file, data)
            self._known = data

    def save_after(self, owner: object) -> None:
        """Write it when `owner` is dropped, or at the end of the process."""
        weakref.finalize(owner, self._save_at_last)

    def _save_at_last(self) -> None:
        """Errors are none: the driver may be gone at the end of a process."""
        with contextlib.suppress(Exception):
            self.save()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            data = self.file.read_bytes() if self.file is not None else b""
            if data and self._cache.deserialize(data):
                self._known = data


def _file(info: EngineInfo, device: Device) -> Path | None:
    folder = cache_folder()
    if folder is None:
        return None
    parts = (info.library, info.release, device.name, device.capability, info.plan_sha256[:DIGITS])
    return folder / FOLDER / file_name(*parts, suffix=".kernels")
