"""Word vectors as word2vec (text, binary), fastText (text) and GloVe publish them, streamed."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import TrainingError
from seq2edge.files.compressed import READ_ERRORS, content_suffix, open_bytes

Vector: TypeAlias = NDArray[np.float32]  # (width,)
LONGEST_WORD = 4096  # bytes; more means that this is no file of vectors


def read_vectors(path: Path, words: Collection[bytes], width: int) -> dict[bytes, Vector]:
    """The vectors of `words` (UTF-8) that the file has; of a word that stands twice, the first.

    A name that ends in .bin is word2vec's binary form, every other one text: a word and its
    numbers a line, below a line `count width` (word2vec) or without it (GloVe). .gz, .bz2 and .xz
    are read too. Raises TrainingError for another width, and for broken files with the place.
    """
    if path.suffix == ".zip":
        raise TrainingError(f"{path}: an archive, unpack it and name one of its files")
    found: dict[bytes, Vector] = {}
    read = _binary if content_suffix(path) == ".bin" else _text
    try:
        with open_bytes(path) as file:
            for word, vector in read(file, path, words, width):
                found.setdefault(word, vector)
    except READ_ERRORS as error:
        fact = getattr(error, "strerror", None) or error
        raise TrainingError(f"{path}: cannot be read: {fact}") from error
    return found


def _text(
    file: IO[bytes], path: Path, words: Collection[bytes], width: int
) -> Iterator[tuple[bytes, Vector]]:
    """Lines; a word may have spaces in it, as some of GloVe's have."""
    first = file.readline()
    counted = re.fullmatch(rb"(\d+) (\d+)\s*", first)
    if not counted:
        _check_width(path, len(first.split()) - 1, width)
        yield from _line(first, 1, path, words, width)
    else:
        _check_width(path, int(counted[2]), width)
    number, header = 1, 1 if counted else 0
    for number, line in enumerate(file, start=2):
        yield from _line(line, number, path, words, width)
    if counted and number - header != int(counted[1]):
        raise TrainingError(
            f"{path}: holds {number - header:,} vectors, its first line says {int(counted[1]):,}; "
            "fetch it again"
        )


def _line(
    line: bytes, number: int, path: Path, words: Collection[bytes], width: int
) -> Iterator[tuple[bytes, Vector]]:
    word, *numbers = line.rstrip().rsplit(b" ", width)
    if len(numbers) != width:
        raise TrainingError(f"{path}:{number}: {len(numbers)} numbers, expected {width}")
    if word not in words:
        return
    try:
        vector = np.array(numbers, dtype=np.float32)
    except ValueError as error:
        raise TrainingError(f"{path}:{number}: not numbers: {error}") from error
    if not np.isfinite(vector).all():
        raise TrainingError(f"{path}:{number}: a number is not finite")
    yield word, vector


def _binary(
    file: IO[bytes], path: Path, words: Collection[bytes], width: int
) -> Iterator[tuple[bytes, Vector]]:
    """A line `count width`, then each word, a space and `width` little-endian float32."""
    header = file.readline(100)
    counted = re.fullmatch(rb"(\d+) (\d+)\s*", header)
    if not counted:
        raise TrainingError(f"{path}: begins with {header[:40]!r}, not with a count and a width")
    count = int(counted[1])
    _check_width(path, int(counted[2]), width)
    offset = len(header)
    for number in range(count):
        raw = bytearray()
        while (byte := file.read(1)) not in (b" ", b"") and len(raw) <= LONGEST_WORD:
            raw += byte
        data = file.read(4 * width)
        offset += len(raw) + 1
        if byte != b" " or len(data) < 4 * width:
            raise TrainingError(
                f"{path}: ends or breaks at byte {offset:,} in vector {number + 1:,} of {count:,}; "
                "fetch it again"
            )
        word = bytes(raw.lstrip(b"\n"))
        if word in words:
            vector = np.frombuffer(data, dtype="<f4").astype(np.float32)
            if not np.isfinite(vector).all():
                raise TrainingError(f"{path}: byte {offset:,}: a number is not finite")
            yield word, vector
        offset += len(data)
    if rest := file.read(100).strip():
        raise TrainingError(f"{path}: goes on at byte {offset:,} after {count:,} vectors: {rest!r}")


def _check_width(path: Path, found: int, width: int) -> None:
    if found != width:
        raise TrainingError(
            f"{path}: its vectors have width {found}, the model has {width}; "
            f"set model.width to {found} or choose another file"
        )
