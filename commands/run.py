"""Running a bundle: `run`, `read`, `classify` and `embed`."""

from __future__ import annotations

import codecs
import collections
import contextlib
import dataclasses
import itertools
import json
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO, TypeAlias

import click

from seq2edge.commands.options import (
    BATCH,
    BUNDLE,
    CUT,
    PATH,
    Decoding,
    Execution,
    decode_options,
    languages,
    load_model,
    progress_bar,
    runtime_options,
    say_cut,
)
from seq2edge.commands.terminal import show
from seq2edge.errors import InputError
from seq2edge.files.storage import file_errors

if TYPE_CHECKING:
    from seq2edge.runtime.encoders import Text
    from seq2edge.runtime.model import Model
    from seq2edge.runtime.options import DecodeOptions
    from seq2edge.runtime.sequences import GeneratedSequence, GeneratedText
    from seq2edge.runtime.streaming import TextStream


TEXTS = click.argument("texts", nargs=-1, metavar="[TEXT|-]...")
FILE = click.option("-f", "--file", type=click.File("rb"), help="One input per line, UTF-8.")
OUTPUT = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write here; what is there already is not generated again.",
)
PAIRS = click.option("--pairs", is_flag=True, help="Each TEXT is two, separated by a tab.")
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object per input.")
LOGPROBS = click.option(
    "--logprobs",
    type=click.IntRange(0),
    metavar="N",
    help="With --json: each token's log-probability, and those of the N likeliest.",
)


@click.command()
@BUNDLE
@TEXTS
@FILE
@OUTPUT
@JSON
@LOGPROBS
@click.option(
    "--alignments",
    is_flag=True,
    help="With --json: the word of the input that each word comes from.",
)
@click.option("--stream", is_flag=True, help="Print an answer as it is generated.")
@BATCH
@CUT
@languages
@click.option("--chat", is_flag=True, help="Take each text as a user's message.")
@decode_options
@runtime_options
def run(
    bundle: Path,
    texts: tuple[str, ...],
    file: BinaryIO | None,
    *,
    output: Path | None,
    as_json: bool,
    logprobs: int | None,
    alignments: bool,
    stream: bool,
    batch: int,
    cut: bool,
    source_language: str | None,
    target_language: str | None,
    chat: bool,
    decoding: Decoding,
    execution: Execution,
) -> None:
    """Generate from each TEXT with BUNDLE.

    Translate, summarize, continue or answer, as the model was made to. A line of input gives a
    line of output, a blank one a blank one.
    """
    if chat and (source_language or target_language):
        raise click.UsageError("--chat takes neither --from nor --to")
    if stream and (as_json or output or (decoding.num_return_sequences or 1) > 1):
        raise click.UsageError("--stream prints one text: not with --json, --output or several")
    check_logprobs(logprobs, as_json=as_json)
    if alignments and not as_json:
        raise click.UsageError("--alignments goes with --json")
    inputs = read_inputs(texts, file)
    model = load_model(bundle, execution, cut=cut, draft=decoding.draft)
    options = decoding.over(model.options).replace(logprobs=logprobs, alignments=alignments)
    task = Task(
        model=model,
        options=options,
        chat=chat,
        source_language=source_language,
        target_language=target_language,
    )
    notes = AnswerNotes()
    if stream:
        for text in inputs:
            _print_stream(task, text, notes)
    else:
        with Destination(
            output,
            as_json=as_json,
            each=options.num_return_sequences,
            align=task.align if alignments else None,
        ) as out:
            if out.written:
                click.echo(f"{output}: goes on behind the answers to {out.written:,}", err=True)
            # Where answers and the bar would go to one screen, they would be written into it.
            shown = sys.stderr.isatty() and (output is not None or not sys.stdout.isatty())
            rows = count_inputs(texts, file) if shown and file is not None else None
            with _row_bar(rows, out.written) as show:
                _write_answers(task, inputs, out, notes, batch, show)
    notes.say()
    if cut:
        say_cut(model)


def check_logprobs(logprobs: int | None, *, as_json: bool) -> None:
    """Raise UsageError for log-probabilities that would not be shown."""
    if logprobs is not None and not as_json:
        raise click.UsageError("--logprobs goes with --json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What `run` makes of every text."""

    model: Model
    options: DecodeOptions
    chat: bool
    source_language: str | None
    target_language: str | None

    def each(self, texts: Iterable[str], batch: int) -> Iterator[list[GeneratedText]]:
        """The answers to texts, in their order; so many texts at a time."""
        from seq2edge.runtime.request import rows_of

        rows = batch * rows_of(self.options)
        if self.chat:
            return self.model.chat_each(map(_message, texts), self.options, rows=rows)
        return self.model.generate_each(
            texts,
            self.options,
            rows=rows,
            source_language=self.source_language,
            target_language=self.target_language,
        )

    def align(self, text: str, answer: GeneratedText) -> list[dict[str, Any]]:
        """An answer's words and those of the text that they come from, as JSON values."""
        pairs = self.model.align(
            text,
            answer,
            source_language=self.source_language,
            target_language=self.target_language,
        )
        return [
            {
                "source": list(pair.source),
                "target": list(pair.target),
                "words": [text[slice(*pair.source)], answer.text[slice(*pair.target)]],
                "weight": pair.weight,
            }
            for pair in pairs
        ]

    def stream(self, text: str) -> TextStream:
        """One answer, piece by piece."""
        if self.chat:
            return self.model.stream_chat(_message(text), self.options)
        return self.model.stream(
            text,
            self.options,
            source_language=self.source_language,
            target_language=self.target_language,
        )


def _message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _print_stream(task: Task, text: str, notes: AnswerNotes) -> None:
    """An answer on standard output as it is generated, and the end of its line."""
    if text.strip():
        stream = task.stream(text)
        for piece in stream:
            show(piece, nl=False)
        notes.count([stream.result])
    click.echo()


# Called with how many inputs are answered, and how many tokens were generated for the last one.
ShowRows: TypeAlias = "Callable[[int, int], None]"


@contextlib.contextmanager
def _row_bar(rows: int | None, first: int) -> Iterator[ShowRows]:
    """A bar of inputs from the `first` on, with tokens a second; None of them: no bar."""
    if rows is None or rows <= first:
        yield lambda *_: None
        return
    begin, tokens = time.monotonic(), 0
    with progress_bar(f"{first:,} of {rows:,} rows") as move:

        def show(done: int, new_tokens: int) -> None:
            nonlocal tokens
            tokens += new_tokens
            rate = tokens / max(time.monotonic() - begin, 1e-9)
            part = min(1.0, (done - first) / (rows - first))
            move(f"{done:,} of {rows:,} rows, {rate:,.0f} tokens/s", part)

        yield show


def _write_answers(
    task: Task,
    inputs: Iterator[str],
    out: Destination,
    notes: AnswerNotes,
    batch: int,
    show: ShowRows,
) -> None:
    """The answers to all inputs but those that the destination has already."""
    texts = TextQueue(inputs, skip=out.written)
    for answer in task.each(texts, batch):
        for blank in texts.blanks():
            out.write(blank, [])
        out.write(texts.next(), answer)
        notes.count(answer)
        show(out.written, sum(len(text.ids) for text in answer))
    for blank in texts.blanks():
        out.write(blank, [])
    show(out.written, 0)


def _write_down(
    results: Iterable[tuple[str, list[GeneratedText]]], *, as_json: bool, each: int
) -> None:
    """Print what images became, as it comes; `each` texts of a file."""
    notes = AnswerNotes()
    with Destination(None, as_json=as_json, each=each) as out:
        for file, texts in results:
            out.write(file, texts)
            notes.count(texts)
    notes.say()


@click.command()
@BUNDLE
@click.argument("images", nargs=-1, required=True, type=PATH)
@JSON
@LOGPROBS
@BATCH
@decode_options
@runtime_options
def read(
    bundle: Path,
    images: tuple[Path, ...],
    *,
    as_json: bool,
    logprobs: int | None,
    batch: int,
    decoding: Decoding,
    execution: Execution,
) -> None:
    """Write down what each of IMAGES shows with BUNDLE."""
    check_logprobs(logprobs, as_json=as_json)
    model = load_model(bundle, execution, draft=decoding.draft)
    options = decoding.over(model.options).replace(logprobs=logprobs)
    shown = (
        pair
        for group in batches(map(str, images), batch)
        for pair in zip(group, model.read(group, options), strict=True)
    )
    _write_down(shown, as_json=as_json, each=options.num_return_sequences)


@click.command()
@BUNDLE
@TEXTS
@FILE
@JSON
@PAIRS
@BATCH
@CUT
@runtime_options
def classify(
    bundle: Path,
    texts: tuple[str, ...],
    file: BinaryIO | None,
    *,
    as_json: bool,
    pairs: bool,
    batch: int,
    cut: bool,
    execution: Execution,
) -> None:
    """Print the label of each TEXT."""
    inputs = read_inputs(texts, file)
    model = load_model(bundle, execution, cut=cut)
    for group in batches(inputs, batch):
        for text, result in zip(group, model.classify(_read_as(group, pairs=pairs)), strict=True):
            if as_json:
                values = {"input": text, "label": result.label, "scores": result.scores}
                show(json.dumps(values, ensure_ascii=False))
            else:
                show(f"{result.label}\t{result.scores[result.label]:.4f}")
    if cut:
        say_cut(model)


def _read_as(group: list[str], *, pairs: bool) -> Sequence[Text]:
    return [_pair(text) for text in group] if pairs else group


def _pair(line: str) -> tuple[str, str]:
    parts = line.split("\t")
    if len(parts) != 2:
        raise InputError(f"{line!r:.60}: {len(parts) - 1} tabs, a pair has one between its texts")
    return parts[0], parts[1]


@click.command()
@BUNDLE
@TEXTS
@FILE
@PAIRS
@BATCH
@CUT
@click.option("--prompt", help="Name of the checkpoint's prompt to put before each text.")
@click.option("--dimensions", type=click.IntRange(1), help="Keep so many values of each.")
@runtime_options
def embed(
    bundle: Path,
    texts: tuple[str, ...],
    file: BinaryIO | None,
    *,
    pairs: bool,
    batch: int,
    cut: bool,
    prompt: str | None,
    dimensions: int | None,
    execution: Execution,
) -> None:
    """Print the embedding of each TEXT as JSON.

    Of a BUNDLE that was exported with --task weigh the weights of tokens, the largest first;
    --dimensions keeps so many tokens.
    """
    inputs = read_inputs(texts, file)
    model = load_model(bundle, execution, cut=cut)
    for group in batches(inputs, batch):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what was cut is told below, once
            lines = list(_embedded(model, _read_as(group, pairs=pairs), prompt, dimensions))
        for text, values in zip(group, lines, strict=True):
            show(json.dumps({"input": text, **values}, ensure_ascii=False))
    say_cut(model)


def _embedded(
    model: Model, texts: Sequence[Text], prompt: str | None, dimensions: int | None
) -> Iterator[dict[str, Any]]:
    """What is printed of each text."""
    if model.bundle.manifest.task == "weigh":
        for weights in model.weigh(texts, prompt=prompt, top=dimensions):
            yield {"weights": weights}
        return
    for vector in model.embed(texts, prompt=prompt, dimensions=dimensions):
        yield {"embedding": vector.tolist()}


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


# An answer's words and those of its input that they come from.
Align: TypeAlias = "Callable[[str, GeneratedText], list[dict[str, Any]]]"


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
