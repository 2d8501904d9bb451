"""The numeric gate: an engine answers as the model did, or it is not used.

An engine is checked on the device when it is first opened there: the bundle's recorded program is
replayed and compared. That it passed is noted in a folder of the user's cache, by the hashes of
plans and reference, the device, its driver and the library: a change of any asks again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from seq2edge.bundle import Bundle
from seq2edge.bundle.reference import REFERENCE
from seq2edge.errors import EngineError
from seq2edge.files.user_cache import cache_folder, write_cached
from seq2edge.runtime import parity
from seq2edge.runtime.backend import Backend
from seq2edge.runtime.backends.device import Device
from seq2edge.runtime.backends.engine import StoredEngine
from seq2edge.runtime.recorded import read_recorded

VERSION = 2  # of the check itself


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineVerdict:
    """What a device made of engines: how far they are from the model, and whether that will do."""

    device: str
    precision: str
    parity: parity.Parity
    passed: bool

    @property
    def summary(self) -> str:
        """For people, with all figures."""
        word = f"as near to the model as {self.precision} is" if self.passed else "DIFFERENT"
        return f"{word} on {self.device}: {self.parity.figures}"


def check(
    bundle: Bundle, engines: Sequence[StoredEngine], backend: Backend, device: Device
) -> None:
    """Replay the reference unless it was done. Raises EngineError where the answers differ."""
    marker = _marker(bundle, engines, device)
    if marker is not None and marker.is_file():
        return
    verdict = check_answers(bundle, engines, backend, device)
    if not verdict.passed:
        raise EngineError(
            f"{engines[0].subject}: answers otherwise than the model on {device.name}, "
            f"{verdict.parity.figures}; it is not used, build it again or in a larger precision"
        )


def check_answers(
    bundle: Bundle, engines: Sequence[StoredEngine], backend: Backend, device: Device
) -> EngineVerdict:
    """Replay the reference, and note it where they pass.

    Raises EngineError where the bundle has no reference.
    """
    if REFERENCE not in bundle.manifest.files:
        raise EngineError(f"{bundle.path}: has no {REFERENCE} to check the engine with")
    info = engines[0].info
    reference = parity.split_for_engine(
        read_recorded(bundle), batch=info.sizes.batch, rows=info.sizes.rows
    )
    parities = [parity.replay(backend, part) for part in reference]
    recorded = bundle.manifest.parity if bundle.manifest.quantization else None
    wrong = [part for part in parities if not part.engine_within(info.precision, recorded)]
    marker = _marker(bundle, engines, device)
    if marker is not None and not wrong:
        _note(marker, parities, engines, device)
    return EngineVerdict(
        device=device.name,
        precision=info.precision,
        parity=parity.combine(wrong or parities),
        passed=not wrong,
    )


def _marker(bundle: Bundle, engines: Sequence[StoredEngine], device: Device) -> Path | None:
    info = engines[0].info
    if REFERENCE not in bundle.manifest.files:
        return None
    parts = [
        str(VERSION),
        *sorted(engine.info.plan_sha256 for engine in engines),
        bundle.manifest.files[REFERENCE].sha256,
        device.name,
        device.capability,
        str(device.driver),
        f"{info.library} {info.release}",
    ]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    folder = cache_folder()
    return folder / "engines" / f"{key}.json" if folder is not None else None


def _note(
    marker: Path, parities: Sequence[parity.Parity], engines: Sequence[StoredEngine], device: Device
) -> None:
    """Remember it; where nothing can be written the check is simply made again."""
    values = {
        "engines": [engine.subject for engine in engines],
        "device": device.name,
        "driver": device.driver,
        "parity": [dataclasses.asdict(part) for part in parities],
    }
    with contextlib.suppress(OSError):
        write_cached(marker, f"{json.dumps(values, indent=2)}\n".encode())
