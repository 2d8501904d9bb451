"""Our part of the user's cache: files that only save time, and that anybody may delete.

Whoever uses one goes on without it where it cannot be read or written.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from seq2edge.files.storage import replacing


def cache_folder() -> Path | None:
    """`XDG_CACHE_HOME`, else `~/.cache`, and in it our folder; None without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "seq2edge"
    except RuntimeError:  # a container's user may have none
        return None


def file_name(*parts: str, suffix: str) -> str:
    """A name made of what the file is for: letters, digits, dots, and dashes for all else."""
    return "-".join(re.sub(r"[^\w.]+", "-", part).strip("-") for part in parts) + suffix


def write_cached(path: Path, data: bytes) -> None:
    """Write the file whole or not at all, its folder too. Raises OSError where it cannot be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(data)
