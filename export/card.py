"""What `training.json` of a checkpoint made by `seq2edge train` says that a bundle must keep."""

from __future__ import annotations

from pathlib import Path

from seq2edge.bundle.manifest import PrivacyRecord
from seq2edge.checkpoints.importers.huggingface import read_json
from seq2edge.errors import BundleError, CheckpointError
from seq2edge.files.records import decode

CARD = "training.json"


def privacy_of(checkpoint: Path) -> PrivacyRecord | None:
    """The budget that a private training spent, None for other trainings.

    Raises CheckpointError where the file does not say it whole: a bundle promises nothing that
    cannot be read.
    """
    path = checkpoint / CARD
    if not path.is_file():
        return None
    values = read_json(path).get("privacy")
    try:
        return None if values is None else decode(PrivacyRecord, values, "privacy")
    except BundleError as error:
        raise CheckpointError(f"{path}: {error}") from error
