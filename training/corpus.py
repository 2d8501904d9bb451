"""Tokenized rows on disk: written once as a stream, then mapped into memory.

A corpus is a folder: `meta.json`, and for each column (`source`, `target`) the ids of all rows one
after another and where each row ends. Rows can be taken in any order, by any process, at no cost
in memory, which is what shuffling and resuming need.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import InputError, TrainingError
from seq2edge.files.storage import file_errors, replacing_folder
from seq2edge.runtime.tokenizer import Tokenizer
from seq2edge.training.presets import longest
from seq2edge.training.recipe import TWO_SIDED, Recipe
from seq2edge.training.text_files import SkippedLines, read_rows
from seq2edge.training.train_tokenizer import TokenIds

Ids: TypeAlias = Sequence[int] | NDArray[np.int64]
Tokenized: TypeAlias = Iterable[tuple[Ids, ...]]  # the rows that one line becomes: one, several
Tokenize: TypeAlias = Callable[[int, tuple[str, ...]], Tokenized]  # the file's number, its texts
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
    skipped: SkippedLines

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


def row_tokenizer(
    recipe: Recipe,
    tokenizer: Tokenizer,
    ids: TokenIds,
    *,
    labels: Sequence[str] = (),
    tags: Sequence[str] = (),
) -> Tokenize:
    """The function that turns a line of file `number` into rows of ids.

    It raises TooLong where a row does not fit, and InputError for an unknown label.
    """
    if recipe.objective not in TWO_SIDED:
        return _pieces(recipe, tokenizer, ids.eos_id)
    most, end = longest(recipe), ids.eos_id

    def tokenize(number: int, row: tuple[str, ...]) -> Tokenized:
        if recipe.objective == "seq2seq":
            target = [*ids.forced_ids, *tokenizer.encode_target(row[1]), end]
        elif row[1] in labels:
            target = [labels.index(row[1])]
        else:
            known = ", ".join(labels[:20])
            raise InputError(f"the label {row[1]!r} is unknown, known: {known}")
        source = tokenizer.encode(tags[number] + row[0] if tags else row[0])
        if max(len(source), len(target)) <= most:
            return [(source, target)]
        if not recipe.data.cut:
            raise TooLong
        return [tuple(x if len(x) <= most else [*x[: most - 1], end] for x in (source, target))]

    return tokenize


def _pieces(recipe: Recipe, tokenizer: Tokenizer, end: int) -> Tokenize:
    """Texts without an answer, in pieces of the longest length."""
    causal = recipe.objective == "causal"
    room = longest(recipe) + 1 if causal else longest(recipe) - 2
    least = 2  # a piece of one token has nothing to predict

    def pieces(_: int, row: tuple[str, ...]) -> Tokenized:
        ids: Ids = tokenizer.encode(row[0], special_tokens=causal)
        ids = [*ids, end] if causal and ids[-1] != end else ids
        for start in range(0, len(ids), room):
            if len(ids) - start >= least:
                yield (ids[start : start + room],)

    return pieces


def prepare_corpus(
    folder: Path,
    files: Sequence[Path],
    tokenize: Tokenize,
    *,
    columns: int,
    texts: int,
    fields: tuple[str, ...] = (),
    rows: int = 0,
) -> Corpus:
    """Stream the files' rows of `texts` texts through `tokenize` into a new corpus of `columns`.

    `rows` bounds those of each file, 0 takes all. Raises TrainingError for broken files, for files
    without a usable row and for a full disk.
    """
    skipped, counts = SkippedLines(), []
    with (
        file_errors(folder, TrainingError),
        replacing_folder(folder) as partial,
        contextlib.ExitStack() as stack,
    ):
        writer = CorpusWriter(partial, columns, stack)
        for number, path in enumerate(files):
            tokenized = _tokenized(path, number, tokenize, texts, fields, skipped)
            written = writer.rows
            for row in itertools.islice(tokenized, rows or None):
                writer.add(row)
            counts.append(writer.rows - written)
            if not counts[-1]:
                lines = f", {skipped.total} lines left out: {'; '.join(skipped.first)}"
                raise TrainingError(
                    f"{path}: holds no row that can be used{lines if skipped.total else ''}"
                )
        writer.finish(counts, skipped)
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
            skipped=SkippedLines(**meta["bad"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{folder}: not a prepared corpus: {error}") from error


class CorpusWriter:
    """The files of a new corpus, which `stack` closes; rows are added file after file."""

    def __init__(self, folder: Path, columns: int, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self.rows = 0
        self._lengths = [0] * columns  # tokens so far of each column
        self._files = [
            [
                stack.enter_context((folder / f"{name}.{part}").open("wb"))
                for part in ("ids", "ends")
            ]
            for name in COLUMNS[:columns]
        ]

    def add(self, row: tuple[Ids, ...]) -> None:
        """Write a row: the ids of every column."""
        self.rows += 1
        for column, ids in enumerate(row):
            tokens, ends = self._files[column]
            self._lengths[column] += len(ids)
            tokens.write(np.asarray(ids, dtype=np.uint32).tobytes())
            ends.write(array("q", [self._lengths[column]]).tobytes())

    def finish(self, files: Sequence[int], skipped: SkippedLines) -> None:
        """Say how many rows each text file gave, and what was left out."""
        meta = {
            "files": list(files),
            "columns": len(self._files),
            "bad": dataclasses.asdict(skipped),
        }
        (self._folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def _tokenized(
    path: Path,
    number: int,
    tokenize: Tokenize,
    texts: int,
    fields: tuple[str, ...],
    skipped: SkippedLines,
) -> Iterator[tuple[Ids, ...]]:
    """The rows of one file; those that are too long are counted in `skipped`."""
    for line, row in read_rows(path, columns=texts, fields=fields, skipped=skipped):
        try:
            pieces = list(tokenize(number, row))
        except TooLong:
            skipped.add(path, line, TOO_LONG)
            continue
        except InputError as error:
            raise TrainingError(f"{path}:{line}: {error}") from error
        yield from pieces
