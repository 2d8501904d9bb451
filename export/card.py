"""What `training.json` of a checkpoint made by `seq2edge train` says that a bundle must keep."""

from __future__ import annotations

from pathlib import Path

from seq2edge.bundle.manifest import PrivacyRecord
from seq2edge.checkpoints.importers.json_file import read_json
from seq2edge.errors import CheckpointError
from seq2edge.files.records import decode, record_errors

CARD = "training.json"


def read_privacy(checkpoint: Path) -> PrivacyRecord | None:
    """The budget that a private training spent, None for other trainings.

    Raises CheckpointError where the file does not say it whole: a bundle promises nothing that
    cannot be read.
    """
    path = checkpoint / CARD
    if not path.is_file():
        return None
    values = read_json(path).get("privacy")
    with record_errors(path, CheckpointError):
        return None if values is None else decode(PrivacyRecord, values, "privacy")
