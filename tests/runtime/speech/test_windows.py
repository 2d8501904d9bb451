"""What the options say of a recording stands before its windows."""

from __future__ import annotations

import dataclasses

import pytest
from speech_windows import TOKENS

from seq2edge.errors import OptionError
from seq2edge.runtime.speech.options import SpeechOptions
from seq2edge.runtime.speech.windows import Hints


def test_hints_need_a_token_for_what_was_said_before():
    """Otherwise they would be dropped silently."""
    tokens = dataclasses.replace(TOKENS, previous=None)
    with pytest.raises(OptionError, match="hotwords: this model has no token"):
        Hints.of(SpeechOptions(hotwords="a"), tokens, lambda _: [1])
