"""Training state on disk: written whole or not at all, so that the last good one stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from seq2edge.errors import TrainingError
from seq2edge.files.storage import DISK_FULL, hidden_sibling, sync


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, through a hidden file that is renamed when it is on the disk."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """See Lightning. Raises TrainingError where the disk is full."""
        del storage_options
        path = Path(path)
        partial = hidden_sibling(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
            sync(partial)
            partial.replace(path)
        except (OSError, RuntimeError) as error:
            cause = error if isinstance(error, OSError) else error.__context__
            number = cause.errno if isinstance(cause, OSError) else None
            remedy = "free some space and resume" if number in DISK_FULL else "resume"
            raise TrainingError(
                f"{path}: cannot be saved: {error}; the last checkpoint before stays, {remedy}"
            ) from error
        finally:
            partial.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """See Lightning. Raises TrainingError for a damaged file."""
        try:
            loaded: dict[str, Any] = super().load_checkpoint(path, *args, **kwargs)
        except Exception as error:  # unpicklers raise anything
            raise TrainingError(f"{path}: not a whole checkpoint: {error}") from error
        return loaded
