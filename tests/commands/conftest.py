"""Bundles that several commands run."""

from __future__ import annotations

import pytest
import speech_models


@pytest.fixture(scope="session")
def bundles(speaking):
    """`bundles(name, **options)`: the folder of a small bundle with a tokenizer of words."""
    return lambda name, **options: str(speaking(name, **options))


@pytest.fixture(scope="session")
def hearing(made_once):
    """The folder of a small multilingual Whisper."""
    return made_once(speech_models.speech_bundle)
