"""Files of word vectors: every published form, and broken ones."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from seq2edge.errors import TrainingError
from seq2edge.training.vector_files import read_vectors

VECTORS = {b"red": [1.0, 2.0, 3.0], b". .": [0.5, -1.0, 2.5], "grün".encode(): [4.0, 5.0, 6.0]}
WANTED = {b"red", b". .", "grün".encode(), b"never"}


def text(header: str = "") -> bytes:
    """The vectors as lines."""
    rows = [word + b" " + " ".join(map(str, row)).encode() for word, row in VECTORS.items()]
    return header.encode() + b"\n".join(rows) + b"\n"


def binary(newline: bytes = b"", count: int = 2) -> bytes:
    """The vectors whose words have no space, as word2vec's own program writes them."""
    rows = [(word, row) for word, row in VECTORS.items() if b" " not in word]
    packed = [word + b" " + np.array(row, "<f4").tobytes() + newline for word, row in rows]
    return f"{count} 3\n".encode() + b"".join(packed)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("glove.txt", text()),
        ("word2vec.txt", text("3 3\n")),
        ("fasttext.vec.gz", gzip.compress(text("3 3\n"), mtime=0)),
        ("news.bin", binary()),
        ("news.bin", binary(b"\n")),
        ("news.bin.gz", gzip.compress(binary(), mtime=0)),
    ],
)
def test_every_form_gives_the_same_vectors(tmp_path: Path, name: str, data: bytes) -> None:
    """Text with and without a first line, binary, compressed; only the wanted words are kept."""
    (tmp_path / name).write_bytes(data)
    found = read_vectors(tmp_path / name, WANTED - {b"red"}, 3)
    kept = {word for word in VECTORS if ".bin" not in name or b" " not in word} - {b"red"}
    assert set(found) == kept
    for word in kept:
        np.testing.assert_array_equal(found[word], np.array(VECTORS[word], np.float32))


def test_the_first_of_two_vectors_of_a_word_is_taken(tmp_path: Path) -> None:
    """As in other readers of these files."""
    (tmp_path / "twice.txt").write_text("red 1 2 3\nred 4 5 6\n")
    assert read_vectors(tmp_path / "twice.txt", {b"red"}, 3)[b"red"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("v.txt", b"red 1 2\n", r"v\.txt: its vectors have width 2, the model has 3; set model\."),
        ("v.txt", b"4 2\nred 1 2\n", "have width 2, the model has 3"),
        ("v.bin", b"4 2\nred ", "have width 2, the model has 3"),
        ("v.txt", b"", "have width -1"),
        ("v.txt", text("4 3\n"), r"holds 3 vectors, its first line says 4; fetch it again"),
        ("v.txt", text("2 3\n"), r"holds 3 vectors, its first line says 2"),
        ("v.txt", b"red 1 2 3\ngrey 1 2\n", r"v\.txt:2: 2 numbers, expected 3"),
        ("v.txt", b"grey 1 2 3\nred 1 x 3\n", r"v\.txt:2: not numbers: .*x"),
        ("v.txt", b"red 1 nan 3\n", r"v\.txt:1: a number is not finite"),
        ("v.bin", binary()[:-1], r"breaks at byte 26 in vector 2 of 2; fetch it again"),
        ("v.bin", binary(count=3), r"in vector 3 of 3"),
        ("v.bin", binary(count=1), r"goes on at byte 20 after 1 vectors"),
        ("v.bin", b"\x00\x01", r"begins with b'.x00.x01', not with a count"),
        ("v.bin", b"1 3\n" + b"x" * 9000, r"breaks at byte 4,\d+ in vector 1"),
        ("v.bin", b"1 3\nred " + np.full(3, np.inf, "<f4").tobytes(), "byte 8: a number is not f"),
        ("v.txt.gz", gzip.compress(text(), mtime=0)[:-9], r"v\.txt\.gz: cannot be read: "),
        ("v.zip", b"PK", r"v\.zip: an archive, unpack it"),
    ],
)
def test_broken_files_are_named_with_the_place(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    """Another width, a wrong count, a short file, and what is no number."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TrainingError, match=message):
        read_vectors(tmp_path / name, WANTED, 3)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Like every file of a recipe."""
    with pytest.raises(TrainingError, match=r"none\.txt: cannot be read: .*No such file"):
        read_vectors(tmp_path / "none.txt", WANTED, 3)
