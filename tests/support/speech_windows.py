"""Tokens of a speech model that is none, and what a window of it says."""

from __future__ import annotations

from seq2edge.runtime.speech.tokens import SpeechTokens
from seq2edge.runtime.speech.windows import Heard

FIRST = 50
TOKENS = SpeechTokens(
    start=31,
    end=30,
    positions=24,
    languages={},
    tasks={},
    no_timestamps=49,
    first_timestamp=FIRST,
    no_speech=48,
    previous=47,
    latest=None,
)
SECOND = 16_000


def heard(*ids, silent=False, temperature=0.0):
    """What a window says."""
    return Heard(
        ids=ids,
        temperature=temperature,
        average_logprob=-0.1,
        compression_ratio=1.0,
        no_speech_probability=0.0,
        silent=silent,
        language="en",
    )
