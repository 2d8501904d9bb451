"""New engines on the device of this machine, before they are put into their bundle."""

from __future__ import annotations

import dataclasses

from seq2edge.bundle import Bundle
from seq2edge.errors import BackendError, EngineError, ForeignEngineError
from seq2edge.export.tensorrt.targets import Target
from seq2edge.files.storage import FileRecord
from seq2edge.runtime.backends.engine_check import EngineVerdict
from seq2edge.runtime.backends.tensorrt import check_engines


def check_new_engines(target: Target, old: Bundle, new: Bundle) -> tuple[EngineVerdict | None, str]:
    """What the device says to a target's engines, or why it was not asked.

    `new` is a preview of the bundle with them, `old` what it would take the place of. Raises
    EngineError where an engine answers otherwise than the model, or does not open on the device
    that it was built on.
    """
    # A preview is not hashed; that an engine passed is noted for the reference that it passed with.
    files = {**new.manifest.files, **_same(old, new)}
    staged = dataclasses.replace(new, manifest=dataclasses.replace(new.manifest, files=files))
    try:
        verdict = check_engines(staged, target.name)
    except BackendError as error:
        return None, str(error).partition(";")[0]  # without the remedy, for who wants to run here
    except EngineError as error:
        message = str(error).replace(str(new.path), str(old.path))
        if isinstance(error, ForeignEngineError) and target.built == "anywhere":
            return None, message.partition(";")[0]
        raise EngineError(f"{message}; the bundle is as it was") from error
    if not verdict.passed:
        raise EngineError(
            f"{old.path}: its engines for {target.name} answer otherwise than the model on "
            f"{verdict.device}, {verdict.parity.figures}; the bundle is as it was, build from a "
            "larger precision"
        )
    return verdict, ""


def _same(old: Bundle, new: Bundle) -> dict[str, FileRecord]:
    """Records of the files that both have."""
    engines = {file for e in new.manifest.engines for file in (e.file, e.sidecar)}
    both = set(old.manifest.files) & set(new.manifest.files) - engines
    return {name: old.manifest.files[name] for name in both}
