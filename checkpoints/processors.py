"""Where a checkpoint says how what its encoder reads is made ready."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seq2edge.checkpoints.importers.json_file import read_json

FILE, WHOLE = "preprocessor_config.json", "processor_config.json"  # the second one holds it, if any


def stored_settings(folder: Path, part: str) -> tuple[dict[str, Any] | None, str]:
    """The settings of that part of a processor and what holds them; None where nothing does."""
    if (folder / WHOLE).is_file():
        values = read_json(folder / WHOLE).get(part)
        if isinstance(values, dict):
            return values, f"{folder / WHOLE}: {part}"
    if (folder / FILE).is_file():
        return read_json(folder / FILE), str(folder / FILE)
    return None, ""
