"""The texts that a command reads: arguments, standard input, a file."""

from __future__ import annotations

import codecs
import collections
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

import click

from seq2edge.errors import InputError

if TYPE_CHECKING:
    from seq2edge.runtime.encoders import Text

TEXTS = click.argument("texts", nargs=-1, metavar="[TEXT|-]...")
FILE = click.option("-f", "--file", type=click.File("rb"), help="One input per line, UTF-8.")
PAIRS = click.option("--pairs", is_flag=True, help="Each TEXT is two, separated by a tab.")


def read_inputs(texts: tuple[str, ...], file: BinaryIO | None) -> Iterator[str]:
    """The arguments, `-` for the lines of stdin, then the lines of the file."""
    if not texts and file is None:
        raise click.UsageError("give a text, - for standard input, or --file")
    return _read(texts, file)


def count_inputs(texts: tuple[str, ...], file: BinaryIO) -> int | None:
    """How many `read_inputs` will give; None where nothing but reading them tells."""
    if "-" in texts or not file.seekable():
        return None
    begin = file.tell()
    lines = sum(1 for _ in file)
    file.seek(begin)
    return len(texts) + lines


def _read(texts: tuple[str, ...], file: BinaryIO | None) -> Iterator[str]:
    for text in texts:
        if text == "-":
            yield from _lines(sys.stdin.buffer, "standard input")
        else:
            yield text
    if file is not None:
        yield from _lines(file, file.name)


def _lines(stream: BinaryIO, name: str) -> Iterator[str]:
    """Every line, blank ones too, without its end; a mark of the byte order is no text."""
    for number, line in enumerate(stream, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901 - the same line
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{name}: line {number} is no UTF-8 from its byte {error.start + 1} on; "
                "convert the file"
            ) from None


class TextQueue:
    """Texts that are no blank lines, and what of all was taken but not answered yet."""

    def __init__(self, inputs: Iterator[str], skip: int = 0) -> None:
        self._inputs = itertools.islice(inputs, skip, None)
        self._taken: collections.deque[str] = collections.deque()

    def __iter__(self) -> Iterator[str]:
        for text in self._inputs:
            self._taken.append(text)
            if text.strip():
                yield text

    def next(self) -> str:
        """The input that is answered now."""
        return self._taken.popleft()

    def blanks(self) -> Iterator[str]:
        """Blank lines that come before it."""
        while self._taken and not self._taken[0].strip():
            yield self._taken.popleft()


def batches(items: Iterable[str], size: int) -> Iterator[list[str]]:
    """The items in lists of `size`; the last may be shorter."""
    batch: list[str] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def read_as(group: list[str], *, pairs: bool) -> Sequence[Text]:
    """Texts, or what `--pairs` says of them."""
    return [_pair(text) for text in group] if pairs else group


def _pair(line: str) -> tuple[str, str]:
    parts = line.split("\t")
    if len(parts) != 2:
        raise InputError(f"{line!r:.60}: {len(parts) - 1} tabs, a pair has one between its texts")
    return parts[0], parts[1]
