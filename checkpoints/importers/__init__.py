"""Readers of checkpoints that are not Hugging Face folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from seq2edge.errors import CheckpointError

if TYPE_CHECKING:
    from seq2edge.checkpoints.importers.huggingface import Source


def open_foreign(path: Path) -> Source | None:
    """The checkpoint as if it were a Hugging Face folder, or None where it already is one."""
    if path.is_file():
        return _open_gguf(path)
    if any(path.glob("model.*.bin")) and any(path.glob("*vocab*.spm")):
        from seq2edge.checkpoints.importers.bergamot import open_bergamot

        return open_bergamot(path)
    files = sorted(path.glob("*.gguf"))
    if (path / "model.bin").is_file() and not (path / "model.safetensors").is_file():
        from seq2edge.checkpoints.importers.ctranslate2_whisper import open_whisper

        return open_whisper(path)
    if files and not (path / "config.json").is_file():
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise CheckpointError(f"{path}: holds {names}, name the file itself")
        return _open_gguf(files[0])
    return None


def _open_gguf(path: Path) -> Source:
    from seq2edge.checkpoints.importers.gguf_llama import open_llama

    return open_llama(path)
