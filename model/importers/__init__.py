"""Readers of checkpoints that are not Hugging Face folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seq2edge.model.checkpoint import Source


def open_foreign(path: Path) -> Source | None:
    """The checkpoint as if it were a Hugging Face folder, or None where it already is one."""
    del path
    return None
