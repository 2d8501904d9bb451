"""Options of speech are what they say, or are refused with their name."""

from __future__ import annotations

import pytest

from seq2edge.errors import OptionError
from seq2edge.runtime.speech.options import SpeechOptions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "sing"}, "task: 'sing', needs transcribe or translate"),
        ({"mode": None}, "mode: None, needs exact or batched"),
        ({"skip_silence": 1}, "skip_silence: 1, needs True or False"),
        ({"timestamps": "yes"}, "timestamps: 'yes', needs True or False or None"),
        ({"language": ""}, "language: '', needs a code, a name or 'auto'"),
        ({"batch": 0}, "batch: 0, needs 1 to 1024"),
        ({"batch": True}, "batch: True, needs 1 to 1024"),
        ({"best_of": 0}, "best_of: 0, needs 1 to 100 texts, or None"),
        ({"best_of": 101}, "best_of: 101, needs 1 to 100"),
        ({"best_of": True}, "best_of: True, needs 1 to 100"),
        ({"best_of": 2.0}, "best_of: 2.0, needs 1 to 100"),
        ({"temperatures": ()}, r"temperatures: \(\), needs one or several"),
        ({"temperatures": (0.0, -1)}, "temperatures: .* needs one or several numbers of 0 to 10"),
        ({"temperatures": (float("nan"),)}, "temperatures: .* needs"),
        ({"no_speech_threshold": 1.5}, "no_speech_threshold: 1.5, needs 0.0 to 1.0, or None"),
        ({"logprob_threshold": None}, "no_speech_threshold: needs a logprob_threshold too"),
        ({"compression_ratio_threshold": "a"}, "compression_ratio_threshold: 'a', needs"),
        ({"initial_prompt": " "}, "initial_prompt: ' ', needs a text or None"),
        ({"hotwords": "a" * 70_000}, "hotwords: 70,000 characters"),
        ({"prefix": "a", "mode": "batched"}, "prefix: a batched recording has no first window"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    """In one line that names the option, its value and what it needs."""
    with pytest.raises(OptionError, match=message):
        SpeechOptions(**changes)


def test_one_temperature_is_a_list_of_one():
    """And a copy with other values is checked too."""
    options = SpeechOptions(temperatures=0)
    assert options.temperatures == (0.0,)
    assert options.replace(batch=2).batch == 2
    with pytest.raises(OptionError, match="beams: no such option, known: language"):
        options.replace(beams=2)
