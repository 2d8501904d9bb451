import bz2
import gzip
import lzma

import pytest

from seq2edge.errors import TrainingError
from seq2edge.training.text_files import SkippedLines, read_rows


def rows_of(path, *, columns=2, fields=()):
    """Rows of a file, and the lines that were skipped."""
    skipped = SkippedLines()
    return list(read_rows(path, columns=columns, fields=fields, skipped=skipped)), skipped


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)],
)
def test_rows_are_read_compressed_or_not(tmp_path, suffix, pack):
    """The same rows come out of plain, gzip, bzip2 and xz files."""
    path = tmp_path / f"a.tsv{suffix}"
    path.write_bytes(pack("Grüße\tgreetings\nzwei\ttwo\n".encode()))
    rows, skipped = rows_of(path)
    assert rows == [(1, ("Grüße", "greetings")), (2, ("zwei", "two"))]
    assert skipped.total == 0


def test_json_lines_give_the_named_fields(tmp_path):
    """In the order of `fields`; other keys of the object are passed over."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"de": "eins", "en": "one", "id": 4}\n', encoding="utf-8")
    assert rows_of(path, fields=("de", "en"))[0] == [(1, ("eins", "one"))]


def test_plain_text_is_one_text_a_line(tmp_path):
    """A tab inside is part of the text."""
    path = tmp_path / "a.txt"
    path.write_text("a\tb\nc\n", encoding="utf-8")
    assert [row for _, row in rows_of(path, columns=1)[0]] == [("a\tb",), ("c",)]


def test_bad_lines_are_left_out_and_counted_with_their_place(tmp_path):
    """Lines that are not UTF-8 or have an empty text do not end the reading."""
    path = tmp_path / "a.tsv"
    path.write_bytes(b"a\tb\n\xff\xfe\tx\nc\t \nd\te\n")
    rows, skipped = rows_of(path)
    assert [number for number, _ in rows] == [1, 4]
    assert skipped.counts == {"not UTF-8": 1, "an empty text": 1}
    assert skipped.first == [f"{path}:2: not UTF-8", f"{path}:3: an empty text"]


def test_only_the_first_bad_lines_are_named(tmp_path):
    """All 50 are counted, five are named."""
    path = tmp_path / "a.tsv"
    path.write_text("a\t\n" * 50, encoding="utf-8")
    skipped = rows_of(path)[1]
    assert (skipped.total, len(skipped.first)) == (50, 5)


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
    """Other numbers of columns, broken JSON and missing keys are mistakes in the file."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TrainingError, match=message):
        rows_of(path)


def test_fields_are_for_json_lines_alone(tmp_path):
    """A TSV file has no keys."""
    path = tmp_path / "a.tsv"
    path.write_text("a\tb\n", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"a.tsv is not .jsonl"):
        rows_of(path, fields=("x", "y"))


def test_missing_and_truncated_files_are_named(tmp_path):
    """A file that is not there, and a compressed one that ends early."""
    with pytest.raises(TrainingError, match="No such file"):
        rows_of(tmp_path / "none.tsv")
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(b"a\tb\n" * 9999)[:-30])
    with pytest.raises(TrainingError, match=r"cannot be read"):
        rows_of(path)
