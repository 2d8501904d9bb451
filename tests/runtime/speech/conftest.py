"""One tiny multilingual Whisper for all tests of speech."""

from __future__ import annotations

import pytest
import speech_models
import torch

import seq2edge
from seq2edge.export.pipeline import export_checkpoint


@pytest.fixture(scope="session")
def original():
    """transformers' own model."""
    torch.set_num_threads(1)
    return speech_models.make_speech_model()


@pytest.fixture(scope="session")
def model(original, tmp_path_factory):
    """The same, exported and loaded."""
    folder = tmp_path_factory.mktemp("speech")
    speech_models.save_speech_model(folder / "checkpoint", original)
    export_checkpoint(folder / "checkpoint", folder / "bundle", alignments=True, original=False)
    return seq2edge.load(folder / "bundle", threads=1)
