"""Which engines may be opened: a plan is code for the device, and for the library that reads it.

Nothing can be checked of it before TensorRT has it, so one of a stranger is not opened. What
`seq2edge build` made on this machine is noted by its hash in the user's cache; who trusts where
others come from says so (`trust_engines`), for all of a bundle's.
"""

from __future__ import annotations

from pathlib import Path

from seq2edge.errors import BackendError
from seq2edge.files.user_cache import cache_folder, write_cached
from seq2edge.runtime.backends.engine import StoredEngine

BUILT = "built"  # a folder of the user's cache: a file for each plan, its hash the name


def check_trusted(engine: StoredEngine) -> None:
    """Raise BackendError unless the engine was built here, or its bundle's engines are trusted.

    By the hash in its sidecar, which the plan's bytes must have when they are read (`open_engine`).
    """
    if engine.bundle.trust_engines or built_here(engine.info.plan_sha256):
        return
    raise BackendError(
        f"{engine.subject}: not built on this machine, and an engine is code; build it here, or "
        "trust where it comes from with --trust-engines"
    )


def built_here(plan_sha256: str) -> bool:
    """Whether this user's `build` made the plan of that hash, and the note of it is still there."""
    note = _note(plan_sha256)
    return note is not None and note.is_file()


def note_built(plan_sha256: str, subject: str) -> str:
    """Note that a plan was built here; why it could not be, else nothing."""
    note = _note(plan_sha256)
    if note is None:
        return "there is no home folder"
    try:
        write_cached(note, f"{subject}\n".encode())
    except OSError as error:
        return f"{note}: {error.strerror or error}"
    return ""


def _note(plan_sha256: str) -> Path | None:
    folder = cache_folder()
    return folder / BUILT / plan_sha256 if folder is not None else None
