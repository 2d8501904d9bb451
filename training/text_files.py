"""Rows of text files, streamed: tab-separated, JSON lines or plain, compressed or not."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from seq2edge.errors import TrainingError
from seq2edge.files.compressed import READ_ERRORS, content_suffix, open_bytes

SHOWN = 5  # lines of each kind that a report names


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
    path: Path, *, columns: int, fields: tuple[str, ...] = (), skipped: SkippedLines
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line numbers (from 1) and rows of `columns` texts.

    `fields` are the keys of a JSONL row. Lines that are not UTF-8 or have an empty text are
    counted in `skipped`. Raises TrainingError naming file and line for another number of columns,
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
                    skipped.add(path, number, "not UTF-8")
                    continue
                row = parse(text, number)
                if all(map(str.strip, row)):
                    yield number, row
                else:
                    skipped.add(path, number, "an empty text")
    except READ_ERRORS as error:
        where = f" after line {number}" if number else ""
        raise TrainingError(f"{path}: cannot be read{where}: {error}") from error


def _parser(
    path: Path, columns: int, fields: tuple[str, ...]
) -> Callable[[str, int], tuple[str, ...]]:
    """How a line, whose number errors name, becomes a row of `columns` texts."""
    kind = content_suffix(path)
    if fields and kind != ".jsonl":
        raise TrainingError(f"data.fields: {path.name} is not .jsonl and has no keys")
    keys = fields or (("input", "reference")[:columns] if columns > 1 else ("text",))
    if len(keys) != columns:
        raise TrainingError(f"data.fields: {len(keys)} keys, a row has {columns}")
    if kind == ".jsonl":
        return functools.partial(_from_json, path, keys)
    if kind == ".txt" and columns == 1:
        return lambda text, _: (text,)
    if kind in (".tsv", ".txt"):
        return functools.partial(_from_columns, path, columns)
    raise TrainingError(f"{path}: its name ends in none of .tsv, .jsonl, .txt (and .gz, .bz2, .xz)")


def _from_columns(path: Path, columns: int, text: str, number: int) -> tuple[str, ...]:
    row = tuple(text.split("\t"))
    if len(row) != columns:
        raise TrainingError(
            f"{path}:{number}: {len(row)} columns, expected {columns} separated by tabs"
        )
    return row


def _from_json(path: Path, keys: tuple[str, ...], text: str, number: int) -> tuple[str, ...]:
    """The texts of a JSON object under `keys`."""
    try:
        values: Any = json.loads(text)
    except ValueError as error:
        raise TrainingError(f"{path}:{number}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise TrainingError(f"{path}:{number}: not a JSON object")
    for key in keys:
        if not isinstance(values.get(key), str):
            raise TrainingError(
                f"{path}:{number}: {key!r} is {values.get(key)!r:.40}, needs a text"
            )
    return tuple(values[key] for key in keys)
