"""One tiny multilingual Whisper for all tests of speech."""

from __future__ import annotations

import pytest
import speech_models
import torch

import seq2edge


@pytest.fixture(scope="session")
def original():
    """transformers' own model."""
    torch.set_num_threads(1)
    return speech_models.make_speech_model()


@pytest.fixture(scope="session")
def model(made_once):
    """The same, exported and loaded."""
    return seq2edge.load(made_once(speech_models.speech_bundle), threads=1)


@pytest.fixture(scope="session")
def long():
    """50 s of sound."""
    return speech_models.recording(50)
