import bz2
import gzip
import lzma

import pytest

from seq2edge.errors import TrainingError
from seq2edge.training.text_files import SkippedLines, read_rows


def rows_of(path, *, columns=2, fields=()):
    """Rows of a file, and its bad lines."""
    bad = SkippedLines()
    return list(read_rows(path, columns=columns, fields=fields, bad=bad)), bad


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)],
)
def test_rows_are_read_compressed_or_not(tmp_path, suffix, pack):
    """Rows are read compressed or not."""
    path = tmp_path / f"a.tsv{suffix}"
    path.write_bytes(pack("Grüße\tgreetings\nzwei\ttwo\n".encode()))
    rows, bad = rows_of(path)
    assert rows == [(1, ("Grüße", "greetings")), (2, ("zwei", "two"))]
    assert bad.total == 0


def test_json_lines_give_the_named_fields(tmp_path):
    """Json lines give the named fields."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"de": "eins", "en": "one", "id": 4}\n', encoding="utf-8")
    assert rows_of(path, fields=("de", "en"))[0] == [(1, ("eins", "one"))]


def test_plain_text_is_one_text_a_line(tmp_path):
    """Plain text is one text a line."""
    path = tmp_path / "a.txt"
    path.write_text("a\tb\nc\n", encoding="utf-8")
    assert [row for _, row in rows_of(path, columns=1)[0]] == [("a\tb",), ("c",)]


def test_bad_lines_are_left_out_and_counted_with_their_place(tmp_path):
    """Bad lines are left out and counted with their place."""
    path = tmp_path / "a.tsv"
    path.write_bytes(b"a\tb\n\xff\xfe\tx\nc\t \nd\te\n")
    rows, bad = rows_of(path)
    assert [number for number, _ in rows] == [1, 4]
    assert bad.counts == {"not UTF-8": 1, "an empty text": 1}
    assert bad.first == [f"{path}:2: not UTF-8", f"{path}:3: an empty text"]


def test_only_the_first_bad_lines_are_named(tmp_path):
    """Only the first bad lines are named."""
    path = tmp_path / "a.tsv"
    path.write_text("a\t\n" * 50, encoding="utf-8")
    bad = rows_of(path)[1]
    assert (bad.total, len(bad.first)) == (50, 5)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "a\tb\nc\n", r"a.tsv:2: 1 columns, expected 2"),
        ("a.tsv", "a\tb\tc\n", r"a.tsv:1: 3 columns, expected 2"),
        ("a.jsonl", '{"input": "a"}\n', r"a.jsonl:1: 'reference' is None, needs a text"),
        ("a.jsonl", "[1]\n", r"a.jsonl:1: not a JSON object"),
        ("a.jsonl", "{\n", r"a.jsonl:1: not JSON"),
        ("a.csv", "a,b\n", r"ends in none of .tsv"),
    ],
)
def test_wrong_rows_are_errors_with_file_and_line(tmp_path, name, text, message):
    """Wrong rows are errors with file and line."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TrainingError, match=message):
        rows_of(path)


def test_fields_are_for_json_lines_alone(tmp_path):
    """Fields are for json lines alone."""
    path = tmp_path / "a.tsv"
    path.write_text("a\tb\n", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"a.tsv is not .jsonl"):
        rows_of(path, fields=("x", "y"))


def test_missing_and_truncated_files_are_named(tmp_path):
    """Missing and truncated files are named."""
    with pytest.raises(TrainingError, match="No such file"):
        rows_of(tmp_path / "none.tsv")
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(b"a\tb\n" * 9999)[:-30])
    with pytest.raises(TrainingError, match=r"cannot be read"):
        rows_of(path)
