"""What a bundle keeps of a checkpoint's `training.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seq2edge.bundle.manifest import PrivacyRecord
from seq2edge.errors import CheckpointError
from seq2edge.export.card import read_privacy

SPENT = {
    "epsilon": 3.5,
    "delta": 1e-5,
    "steps": 10,
    "noise_multiplier": 1.25,
    "sampling_rate": 0.25,
    "clip": 1.0,
    "accountant": "rdp",
}


def test_a_private_training_is_kept(tmp_path: Path) -> None:
    """The record as it stands there."""
    (tmp_path / "training.json").write_text(json.dumps({"steps": 10, "privacy": SPENT}))
    assert read_privacy(tmp_path) == PrivacyRecord(**SPENT)


def test_other_trainings_and_no_file_are_none(tmp_path: Path) -> None:
    """Checkpoints from elsewhere say nothing."""
    assert read_privacy(tmp_path) is None
    (tmp_path / "training.json").write_text(json.dumps({"steps": 10}))
    assert read_privacy(tmp_path) is None


@pytest.mark.parametrize(
    ("privacy", "message"),
    [
        ({**SPENT, "epsilon": "3"}, r"training\.json: privacy\.epsilon: expected a number"),
        ({**SPENT, "more": 1}, r"privacy\.more: unknown key"),
        ({"epsilon": 3.5}, r"privacy\.delta: missing"),
        ([], r"privacy: expected an object"),
    ],
)
def test_a_record_that_is_not_whole_is_an_error(tmp_path: Path, privacy: Any, message: str) -> None:
    """No bundle promises what cannot be read."""
    (tmp_path / "training.json").write_text(json.dumps({"privacy": privacy}))
    with pytest.raises(CheckpointError, match=message):
        read_privacy(tmp_path)


def test_a_broken_file_is_an_error(tmp_path: Path) -> None:
    """Named, as every file of a checkpoint."""
    (tmp_path / "training.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"training\.json: cannot be read as JSON"):
        read_privacy(tmp_path)
