"""Tokenized rows on disk: written once as a stream, then mapped into memory.

A corpus is a folder: `meta.json`, and for each column (`source`, `target`) the ids of all rows one
after another and where each row ends. Rows can be taken in any order, by any process, at no cost
in memory, which is what shuffling and resuming need.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import InputError, TrainingError
from seq2edge.files.storage import file_errors, hidden_sibling
from seq2edge.training.text_files import SkippedLines, read_rows

Ids: TypeAlias = Sequence[int]
Encoded: TypeAlias = Iterable[tuple[Ids, ...]]  # the rows that one line becomes: none, one, several
Encode: TypeAlias = Callable[[int, tuple[str, ...]], Encoded]  # the file's number, a line's texts
COLUMNS = ("source", "target")
TOO_LONG = "longer than the model's positions"


class TooLong(Exception):  # noqa: N818 - says what the row is; counted, never shown as an error
    """A row does not fit the model's positions."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """Rows of one or two columns. `files` has the number of rows of each file, in order."""

    ids: tuple[NDArray[np.uint32], ...]  # of each column, (all tokens,)
    ends: tuple[NDArray[np.int64], ...]  # of each column, (rows,)
    files: tuple[int, ...]
    bad: SkippedLines

    def __len__(self) -> int:
        return len(self.ends[0])

    def row(self, index: int, column: int = 0) -> NDArray[np.int64]:
        """Token ids of one row's column, (length,)."""
        ends = self.ends[column]
        start = int(ends[index - 1]) if index else 0
        return self.ids[column][start : int(ends[index])].astype(np.int64)

    def lengths_of(self, rows: NDArray[np.int64], column: int = 0) -> NDArray[np.int64]:
        """Tokens of these rows, (rows,)."""
        ends = self.ends[column]
        return ends[rows] - np.where(rows > 0, ends[rows - 1], 0)

    def lengths(self, column: int = 0) -> NDArray[np.int64]:
        """Tokens of every row, (rows,)."""
        return np.diff(self.ends[column], prepend=0)


def prepare_corpus(
    folder: Path,
    files: Sequence[Path],
    encode: Encode,
    *,
    columns: int,
    texts: int,
    fields: tuple[str, ...] = (),
    rows: int = 0,
) -> Corpus:
    """Stream the files' rows of `texts` texts through `encode` into a new corpus of `columns`.

    Raises TrainingError for broken files, for files without a usable row and for a full disk.
    """
    partial = hidden_sibling(folder)
    try:
        with file_errors(folder, TrainingError):
            partial.mkdir(parents=True)
            counts, bad = _write(partial, files, encode, columns, texts, fields, rows)
            meta = {"files": counts, "columns": columns, "bad": dataclasses.asdict(bad)}
            (partial / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_corpus(folder)


def open_corpus(folder: Path) -> Corpus:
    """Map a corpus that was prepared before. Raises TrainingError where it is damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        names = COLUMNS[: meta["columns"]]
        return Corpus(
            ids=tuple(np.memmap(folder / f"{n}.ids", dtype=np.uint32, mode="r") for n in names),
            ends=tuple(np.memmap(folder / f"{n}.ends", dtype=np.int64, mode="r") for n in names),
            files=tuple(meta["files"]),
            bad=SkippedLines(**meta["bad"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{folder}: not a prepared corpus: {error}") from error


def _write(
    folder: Path,
    files: Sequence[Path],
    encode: Encode,
    columns: int,
    texts: int,
    fields: tuple[str, ...],
    most: int,
) -> tuple[list[int], SkippedLines]:
    bad, counts = SkippedLines(), []
    writers = [_Column(folder, name) for name in COLUMNS[:columns]]
    try:
        for number, path in enumerate(files):
            written = 0
            for row in _encoded(path, number, encode, texts, fields, bad):
                for writer, ids in zip(writers, row, strict=True):
                    writer.add(ids)
                written += 1
                if written == most:
                    break
            if not written:
                shown = f", {bad.total} lines left out: {'; '.join(bad.first)}" if bad.total else ""
                raise TrainingError(f"{path}: holds no row that can be used{shown}")
            counts.append(written)
    finally:
        for writer in writers:
            writer.close()
    return counts, bad


def _encoded(
    path: Path,
    number: int,
    encode: Encode,
    texts: int,
    fields: tuple[str, ...],
    bad: SkippedLines,
) -> Iterator[tuple[Ids, ...]]:
    for line, row in read_rows(path, columns=texts, fields=fields, bad=bad):
        try:
            made = list(encode(number, row))
        except TooLong:
            bad.add(path, line, TOO_LONG)
            continue
        except InputError as error:
            raise TrainingError(f"{path}:{line}: {error}") from error
        yield from made


class _Column:
    """The two files of one column."""

    def __init__(self, folder: Path, name: str) -> None:
        self._end = 0
        self._ids: IO[bytes] = (folder / f"{name}.ids").open("wb")
        self._ends: IO[bytes] = (folder / f"{name}.ends").open("wb")

    def add(self, ids: Ids) -> None:
        self._end += len(ids)
        self._ids.write(np.asarray(ids, dtype=np.uint32).tobytes())
        self._ends.write(array("q", [self._end]).tobytes())

    def close(self) -> None:
        self._ids.close()
        self._ends.close()
