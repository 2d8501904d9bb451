"""One JSON object from a file of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from seq2edge.errors import CheckpointError, foreign_errors
from seq2edge.files.storage import read_regular

LARGEST = 2**26  # bytes of a tokenizer's file
LARGEST_JSON = 2**24  # bytes: an index of 100,000 tensors has less


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        with foreign_errors(CheckpointError, f"{path}: cannot be read as JSON", FileNotFoundError):
            values = json.loads(read_regular(path, LARGEST_JSON, CheckpointError).decode("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file, a checkpoint needs it") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: holds {type(values).__name__}, needs a JSON object")
    return values
