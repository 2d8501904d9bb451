"""`listen`: what is heard through a pipe is printed as it settles, and how late that was."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from command_line import call

CLIP = Path(__file__).parents[2] / "examples" / "librivox.wav"
FAST = ("--device", "cpu", "--threads", 1, "--language", "de")


def test_a_pipe_is_transcribed_as_it_is_heard(hearing):
    """As a WAVE stream and as raw samples; the text of both is that of all JSON objects."""
    data = CLIP.read_bytes()
    result = call("listen", hearing, "-", *FAST, "--step", "2", "--json", input=data)
    changes = [json.loads(line) for line in result.stdout.splitlines()]
    words = [word for change in changes for word in change["settled"]]
    assert words
    assert changes[-1]["pause"]
    assert changes[-1]["partial"] == ""
    assert all(0 <= word["start"] <= word["end"] <= 6 for word in words)
    assert f"listen: {len(words):,} words, settled" in result.stderr
    how = (*FAST, "--step", "10", "--raw", "s16le,16000,1")
    raw = call("listen", hearing, "-", *how, input=data[44:])
    assert raw.stdout.strip()
    assert raw.stdout.endswith("\n")
    assert "\x1b" not in raw.stdout


def test_a_file_is_listened_to(hearing):
    """One that is not there is a line."""
    assert call("listen", hearing, CLIP, *FAST, "--step", "10").stdout.strip()
    result = call("listen", hearing, "nothing.wav", *FAST)
    assert result.exit_code == 1
    assert "nothing.wav: no such file" in result.stderr


def test_what_goes_together_is_said(hearing, monkeypatch):
    """A microphone has no file, and without one no library is a line with the extra."""
    assert "--microphone reads no FILE" in (
        call("listen", hearing, "-", "--microphone", "1").stderr
    )
    assert "--raw goes with - or a FILE" in (call("listen", hearing, "--raw", "s16le").stderr)
    assert "raw: 's17': encoding: 's17' is unknown" in (
        call("listen", hearing, "-", "--raw", "s17").stderr
    )
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert "install seq2edge[microphone]" in call("listen", hearing, *FAST).stderr
