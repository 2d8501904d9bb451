"""Every curl line of the pages on serving is answered by a server."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import serving
import sound_files
import speech_models

PAGES = ("docs/serving-endpoints.md",)
ROOT = Path(__file__).resolve().parents[2]
LINES = [
    line
    for page in PAGES
    for line in re.findall(r"^curl .*", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
]
HERE = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def served(speaking, made_once):
    """A server of the models that the pages name."""
    folders = {
        "translator": speaking("bart"),
        "sentiment": speaking("bert"),
        "reranker": speaking("bert", num_labels=1),
        "tagger": speaking("bert-tokens"),
        "reader": speaking("bert-span"),
        "whisper": made_once(speech_models.speech_bundle),
    }
    with serving.serve(folders) as server:
        yield server


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("line", LINES)
def test_every_line_is_answered(served, tmp_path, line):
    """With status 200 and a body; the clip is a few seconds of sound."""
    samples = np.clip(speech_models.recording(4), -1, 1) * 32767
    (tmp_path / "clip.wav").write_bytes(sound_files.file_of("wav16", samples.astype(np.int16)))
    assert HERE in line
    words = [*shlex.split(line.replace(HERE, served.url)), "--fail-with-body", "--silent"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.strip()
