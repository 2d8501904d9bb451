"""Examples from a user's files, and what is wrong with files that are none."""

from __future__ import annotations

import gzip
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
    assert found == [Example(input="a", references=("A",)), Example(input="b", references=("B",))]


def test_clips_with_and_without_transcripts(tmp_path):
    """By name; the audio is not opened."""
    for name in ("b.FLAC", "a.wav", "notes.txt"):
        (tmp_path / name).touch()
    clips = [tmp_path / "a.wav", tmp_path / "b.FLAC"]
    assert read_examples(tmp_path, "transcribe") == [Example(input=clip) for clip in clips]
    (tmp_path / "transcripts.tsv").write_text("b.FLAC\tsecond\na\tfirst\n")
    found = read_examples(tmp_path, "transcribe")
    assert [(e.input.name, *e.references) for e in found] == [
        ("a.wav", "first"),
        ("b.FLAC", "second"),
    ]


def test_images_with_and_without_transcripts(tmp_path):
    """Whatever their format; nothing else of the folder."""
    for name in ("b.PNG", "a.jpeg", "notes.txt"):
        (tmp_path / name).touch()
    files = [tmp_path / "a.jpeg", tmp_path / "b.PNG"]
    assert read_examples(tmp_path, "read") == [Example(input=file) for file in files]
    (tmp_path / "transcripts.tsv").write_text("b.PNG\tsecond\na\tfirst\n")
    found = read_examples(tmp_path, "read")
    assert [(e.input.name, *e.references) for e in found] == [
        ("a.jpeg", "first"),
        ("b.PNG", "second"),
    ]
    (tmp_path / "x.jsonl").write_text('{"input": "a.jpeg", "reference": "hello"}')
    wanted = [Example(input=files[0], references=("hello",))]
    assert read_examples(tmp_path / "x.jsonl", "read") == wanted


LINES = """{"input": "a", "reference": "A"}

{"input": "b", "references": ["B", "C"], "domain": "news"}
{"input": "c"}
"""


def test_json_lines_have_several_references_and_domains(tmp_path):
    """Compressed or not."""
    wanted = [
        Example(input="a", references=("A",)),
        Example(input="b", references=("B", "C"), domain="news"),
        Example(input="c"),
    ]
    (tmp_path / "x.jsonl").write_text(LINES)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    for name in ("x.jsonl", "x.jsonl.gz"):
        assert read_examples(tmp_path / name, "generate") == wanted
    (tmp_path / "x.tsv.gz").write_bytes(gzip.compress(b"a\tA"))
    assert read_examples(tmp_path / "x.tsv.gz", "generate") == wanted[:1]


def test_json_lines_name_clips_beside_them(tmp_path):
    """Relative to the file, for a model that reads sound."""
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.wav").touch()
    (tmp_path / "x.jsonl").write_text('{"input": "clips/a.wav", "reference": "hello"}')
    found = read_examples(tmp_path / "x.jsonl", "transcribe")
    assert found == [Example(input=tmp_path / "clips" / "a.wav", references=("hello",))]
    (tmp_path / "clips" / "a.wav").unlink()
    with pytest.raises(InputError, match=r"x.jsonl: no clip .*a.wav"):
        read_examples(tmp_path / "x.jsonl", "transcribe")


def test_a_classifier_s_input_may_be_a_pair(tmp_path):
    """As a list of two texts in JSON; no other model reads one."""
    path = tmp_path / "x.jsonl"
    path.write_text('{"input": ["a b", ""], "reference": "yes"}\n{"input": "c"}\n')
    assert [example.input for example in read_examples(path, "classify")] == [("a b", ""), "c"]
    for line, task in (
        ('{"input": ["a", "b"]}', "embed"),
        ('{"input": ["a", 3]}', "classify"),
        ('{"input": ["a", "b", "c"]}', "classify"),
    ):
        path.write_text(line)
        with pytest.raises(InputError, match=r"needs a text.* as input, and texts as references"):
            read_examples(path, task)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "holds no example"),
        ("\n{", "line 2: not JSON"),
        ("[1]", "line 1: not an object"),
        ('{"input": "a", "answer": "b"}', "key 'answer' is unknown, known: input, reference"),
        ('{"input": "a", "reference": "b", "references": []}', "both reference and references"),
        ('{"input": " "}', "needs a text as input"),
        ('{"reference": "a"}', "needs a text as input"),
        ('{"input": "a", "reference": 3}', "needs a text as input, and texts as references"),
        ('{"input": "a", "references": "b"}', "needs a text as input, and texts as references"),
        ('{"input": "a", "domain": 7}', "the domain 7 is no text"),
    ],
)
def test_what_is_wrong_with_json_lines_is_said(tmp_path, line, message):
    """The line and the fact."""
    (tmp_path / "x.jsonl").write_text(line)
    with pytest.raises(InputError, match=message):
        read_examples(tmp_path / "x.jsonl", "generate")


@pytest.mark.parametrize(
    ("files", "task", "message"),
    [
        ({}, "generate", "t.txt: No such file"),
        ({"t.txt": b"\n \n"}, "generate", "t.txt: holds no text"),
        ({"t.txt": b"ok\n\xff"}, "generate", "t.txt: not UTF-8 at byte 3"),
        ({"t.txt": b"a\tb\nc"}, "generate", "text 2 has 1 columns, the first has 2"),
        ({"t.txt": b"a\tb\tc"}, "generate", "text 1 has 3 columns"),
        ({"t.txt": b"text"}, "transcribe", "this model reads sound"),
        ({"t.txt": b"text"}, "read", r"reads images: give a folder of \*\.png or \*\.jpg files"),
        ({"t.txt/x.wav": b""}, "read", r"holds no \*\.png or \*\.jpg file"),
        ({"t.txt/x.png": b"", "t.txt/x.jpg": b""}, "read", "x.jpg and x.png have one name"),
        ({"t.txt/x": b""}, "generate", "a folder, this model reads text"),
        ({"t.txt/x.txt": b""}, "transcribe", r"holds no \*\.wav or \*\.flac file"),
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
