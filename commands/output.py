"""What `run` and its like print and write of generated texts."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias

import click

from seq2edge.commands.terminal import show
from seq2edge.files.storage import file_errors

if TYPE_CHECKING:
    from seq2edge.runtime.sequences import GeneratedSequence, GeneratedText

JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object per input.")
OUTPUT = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write here; what is there already is not generated again.",
)
LOGPROBS = click.option(
    "--logprobs",
    type=click.IntRange(0),
    metavar="N",
    help="With --json: each token's log-probability, and those of the N likeliest.",
)
# An answer's words and those of its input that they come from.
Align: TypeAlias = "Callable[[str, GeneratedText], list[dict[str, Any]]]"


def check_logprobs(logprobs: int | None, *, as_json: bool) -> None:
    """Raise UsageError for log-probabilities that would not be shown."""
    if logprobs is not None and not as_json:
        raise click.UsageError("--logprobs goes with --json")


class Destination:
    """Where answers go: standard output, or a file that goes on where it was."""

    def __init__(
        self, path: Path | None, *, as_json: bool, each: int, align: Align | None = None
    ) -> None:
        self._path, self._as_json, self._each, self._align = path, as_json, each, align
        self._file: TextIO | None = None
        self.written = 0  # inputs that are answered, also those that the file had

    def __enter__(self) -> Destination:
        if self._path is not None:
            lines = 1 if self._as_json else self._each
            with file_errors(self._path):
                self.written = _whole_answers(self._path, lines)
                self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, source: str, texts: list[GeneratedText]) -> None:
        """What the model made of one input: a line a result, or one JSON object.

        A blank line gives blank lines, so that line n still answers line n.
        """
        if self._as_json:
            values = answer(source, texts)
            if self._align is not None:
                for result, text in zip(values["results"], texts, strict=True):
                    result["alignments"] = self._align(source, text)
            lines = [json.dumps(values, ensure_ascii=False)]
        elif texts:
            lines = [
                " ".join(text.text.splitlines()) if self._file else text.text for text in texts
            ]
        else:
            lines = [""] * self._each
        self.written += 1
        for line in lines:
            show(line, file=self._file)
        if self._file is not None:
            self._file.flush()


def _whole_answers(path: Path, lines: int) -> int:
    """How many inputs a file of results answers; what follows the last whole one is cut off."""
    if not path.exists():
        return 0
    data = path.read_bytes()
    ends = [newline.end() for newline in re.finditer(b"\n", data)]
    count = len(ends) // lines
    end = ends[count * lines - 1] if count else 0
    if end < len(data):
        with path.open("r+b") as file:
            file.truncate(end)
    return count


class AnswerNotes:
    """Counts answers that ended at their limit of tokens, and tokens that were guessed."""

    def __init__(self) -> None:
        self._ended = self._all = 0
        self._guessed = self._accepted = self._steps = self._tokens = 0

    def count(self, texts: Sequence[GeneratedSequence]) -> None:
        """Add the answers of one input."""
        self._all += len(texts)
        self._ended += sum(text.finish_reason == "length" for text in texts)
        for text in texts[:1]:
            if text.usage is not None:
                self._guessed += text.usage.guessed_tokens
                self._accepted += text.usage.accepted_tokens
                self._steps += text.usage.steps
                self._tokens += len(text.ids)

    def say(self) -> None:
        """How many, on stderr."""
        if self._guessed:
            click.echo(
                f"guesses: {self._accepted:,} of {self._guessed:,} tokens were right, "
                f"{self._steps / max(1, self._tokens):.2f} steps a token",
                err=True,
            )
        if self._ended:
            of = f"{self._ended:,} of {self._all:,} answers" if self._all > 1 else "the answer"
            click.echo(
                f"length: {of} ended at the limit of tokens; --max-new-tokens sets it", err=True
            )


def answer(source: str, texts: Sequence[GeneratedText]) -> dict[str, Any]:
    """An input, its results, and what they took, as JSON values; no times, which always differ."""
    values: dict[str, Any] = {"input": source, "results": results(texts)}
    if texts and texts[0].usage is not None:
        counts = dataclasses.asdict(texts[0].usage)
        values["usage"] = {k: v for k, v in counts.items() if not k.endswith("seconds")}
    return values


def results(texts: Sequence[GeneratedText]) -> list[dict[str, Any]]:
    """The results of one input as JSON values."""
    return [_result(text) for text in texts]


def _result(text: GeneratedText) -> dict[str, Any]:
    values: dict[str, Any] = {
        "text": text.text,
        "ids": list(text.ids),
        "score": text.score,
        "finished": text.finished,
        "finish_reason": text.finish_reason,
    }
    if text.logprobs is not None:
        values["logprobs"] = [dataclasses.asdict(entry) for entry in text.logprobs]
    return values
