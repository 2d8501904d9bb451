"""How long kernels took, kept on disk so that the next build does not time them again.

TensorRT chooses kernels by timing them on the device, which is most of a build there. Its builder
takes what it measured before and gives back what it measured, and refuses the timings of another
release or device; they are then measured anew. TensorRT-RTX times nothing and has no such cache.

Known from NVIDIA's reference of the Python API and proven on a double: TensorRT was never run here.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from seq2edge.errors import BackendError
from seq2edge.files.user_cache import cache_folder, file_name, write_cached
from seq2edge.runtime.backends.device import Device, import_cuda

FOLDER = "timings"  # of the user's cache


def default_file(library: str, release: str) -> Path | None:
    """In the user's cache, for this library and device; None where there is no such folder.

    Without cuda-bindings the device has no name here: the builder alone then tells devices apart.
    """
    folder = cache_folder()
    if folder is None:
        return None
    try:
        device = Device(import_cuda())
    except BackendError:
        return folder / FOLDER / file_name(library, release, suffix=".timings")
    name = file_name(library, release, device.name, device.capability, suffix=".timings")
    device.close()
    return folder / FOLDER / name


@dataclasses.dataclass
class TimingCache:
    """Timings in a file, for one builder after the other.

    Nothing about them is an error: what went wrong is one of the `remarks`.
    """

    file: Path
    remarks: list[str] = dataclasses.field(default_factory=list)
    _read: bytes = b""
    _attached: Any = None

    def attach(self, config: Any) -> None:
        """Let the builder of this configuration use what the file has, and add to it."""
        self._read = self._read_file()
        self._attached = None
        if self._read:
            self._attached = _attach(config, self._read)
            if self._attached is None:
                self._remark("refused by TensorRT, as of another release or device, or damaged")
        if self._attached is None:
            self._attached = _attach(config, b"")

    def save(self, config: Any) -> None:
        """Write what the builder knows now, with what another build wrote in the meantime."""
        if self._attached is None:
            self._remark("TensorRT takes no timing cache")
            return
        stored = self._read_file()
        if stored and stored != self._read:
            other = config.create_timing_cache(stored)
            if other is not None:
                self._attached.combine(other, ignore_mismatch=False)
        written = self._attached.serialize()
        try:
            write_cached(self.file, bytes(written))
        except OSError as error:
            self._remark(f"cannot be written ({error.strerror or error})")

    def _read_file(self) -> bytes:
        try:
            return self.file.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            self._remark(f"cannot be read ({error.strerror or error})")
            return b""

    def _remark(self, fact: str) -> None:
        remark = f"timing cache {self.file}: {fact}; kernels are timed again"
        if remark not in self.remarks:
            self.remarks.append(remark)


def _attach(config: Any, data: bytes) -> Any | None:
    """The cache, if the configuration takes it: only of this very device and release."""
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        return None
    return cache
