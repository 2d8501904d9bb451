"""Rows of text files, streamed: tab-separated, JSON lines or plain, compressed or not."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from seq2edge.errors import TrainingError
from seq2edge.files.compressed import READ_ERRORS, content_suffix, open_bytes

SHOWN = 5  # bad lines that a report names


@dataclasses.dataclass(kw_only=True)
class SkippedLines:
    """Lines that were left out: how many of each kind, and where the first ones stand."""

    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    first: list[str] = dataclasses.field(default_factory=list)

    def add(self, path: Path, number: int, fact: str) -> None:
        """Count a line, numbered from 1."""
        self.counts[fact] = self.counts.get(fact, 0) + 1
        if self.counts[fact] <= SHOWN:
            self.first.append(f"{path}:{number}: {fact}")

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.counts.values())


def read_rows(
    path: Path, *, columns: int, fields: tuple[str, ...] = (), bad: SkippedLines
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line numbers (from 1) and rows of `columns` texts.

    `fields` are the keys of a JSONL row. Lines that are not UTF-8 or have an empty text are
    counted in `bad`. Raises TrainingError naming file and line for another number of columns,
    for JSON that lacks a field, and for a file that cannot be read.
    """
    parse = _parser(path, columns, fields)
    number = 0
    try:
        with open_bytes(path) as file:
            for number, line in enumerate(file, start=1):
                try:
                    text = line.decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError:
                    bad.add(path, number, "not UTF-8")
                    continue
                row = parse(text, number)
                if all(part.strip() for part in row):
                    yield number, row
                else:
                    bad.add(path, number, "an empty text")
    except READ_ERRORS as error:
        where = f" after line {number}" if number else ""
        raise TrainingError(f"{path}: cannot be read{where}: {error}") from error


def _parser(
    path: Path, columns: int, fields: tuple[str, ...]
) -> Callable[[str, int], tuple[str, ...]]:
    kind = content_suffix(path)
    if kind == ".jsonl":
        keys = fields or ("input", "reference")[:columns] if columns > 1 else fields or ("text",)
        if len(keys) != columns:
            raise TrainingError(f"data.fields: {len(keys)} keys, a row has {columns}")
        return lambda text, number: _from_json(text, keys, f"{path}:{number}")
    if fields:
        raise TrainingError(f"data.fields: {path.name} is not .jsonl and has no keys")
    if kind == ".txt" and columns == 1:
        return lambda text, _: (text,)
    if kind in (".tsv", ".txt"):
        return lambda text, number: _from_columns(text, columns, f"{path}:{number}")
    raise TrainingError(f"{path}: its name ends in none of .tsv, .jsonl, .txt (and .gz, .bz2, .xz)")


def _from_columns(text: str, columns: int, where: str) -> tuple[str, ...]:
    row = tuple(text.split("\t"))
    if len(row) != columns:
        raise TrainingError(f"{where}: {len(row)} columns, expected {columns} separated by tabs")
    return row


def _from_json(text: str, keys: tuple[str, ...], where: str) -> tuple[str, ...]:
    try:
        values: Any = json.load(io.StringIO(text))
    except ValueError as error:
        raise TrainingError(f"{where}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise TrainingError(f"{where}: not a JSON object")
    for key in keys:
        if not isinstance(values.get(key), str):
            raise TrainingError(f"{where}: {key!r} is {values.get(key)!r:.40}, needs a text")
    return tuple(values[key] for key in keys)
