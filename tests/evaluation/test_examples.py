"""Examples from a user's files, and what is wrong with files that are none."""

from __future__ import annotations

import re

import pytest

from seq2edge.errors import InputError
from seq2edge.evaluation.examples import Example, read_examples


def test_texts_with_and_without_references(tmp_path):
    """A line each; blank ones and line ends are none of it."""
    (tmp_path / "plain.txt").write_bytes("één\r\n\n two words \n".encode())
    assert read_examples(tmp_path / "plain.txt", "generate") == [
        Example(input="één"),
        Example(input=" two words "),
    ]
    (tmp_path / "pairs.tsv").write_text("a\tA\nb\tB")
    found = read_examples(tmp_path / "pairs.tsv", "classify")
    assert found == [Example(input="a", reference="A"), Example(input="b", reference="B")]


def test_clips_with_and_without_transcripts(tmp_path):
    """By name; the audio is not opened."""
    for name in ("b.wav", "a.wav"):
        (tmp_path / name).touch()
    clips = [tmp_path / "a.wav", tmp_path / "b.wav"]
    assert read_examples(tmp_path, "transcribe") == [Example(input=clip) for clip in clips]
    (tmp_path / "transcripts.tsv").write_text("b.wav\tsecond\na\tfirst\n")
    found = read_examples(tmp_path, "transcribe")
    assert [(e.input.name, e.reference) for e in found] == [("a.wav", "first"), ("b.wav", "second")]


@pytest.mark.parametrize(
    ("files", "task", "message"),
    [
        ({}, "generate", "t.txt: No such file"),
        ({"t.txt": b"\n \n"}, "generate", "t.txt: holds no text"),
        ({"t.txt": b"ok\n\xff"}, "generate", "t.txt: not UTF-8 at byte 3"),
        ({"t.txt": b"a\tb\nc"}, "generate", "text 2 has 1 columns, the first has 2"),
        ({"t.txt": b"a\tb\tc"}, "generate", "text 1 has 3 columns"),
        ({"t.txt": b"text"}, "transcribe", "this model reads sound"),
        ({"t.txt/x": b""}, "generate", "a folder, this model reads text"),
        ({"t.txt/x.mp3": b""}, "transcribe", r"holds no \*.wav file"),
        (
            {"t.txt/x.wav": b"", "t.txt/transcripts.tsv": b"x text"},
            "transcribe",
            "line 1 has no tab",
        ),
        (
            {"t.txt/x.wav": b"", "t.txt/transcripts.tsv": b"y\tt"},
            "transcribe",
            "no transcript of x",
        ),
        (
            {"t.txt/x.wav": b"", "t.txt/transcripts.txt": b"x\ta\ny\tb"},
            "transcribe",
            "no clip y",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path, files, task, message):
    """The file, the fact, and what to give instead."""
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_examples(tmp_path / "t.txt", task)
    assert re.match(re.escape(str(tmp_path)), str(caught.value))
