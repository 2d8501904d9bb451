"""`seq2edge run`: generate from texts."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import click

from seq2edge.commands.options import (
    BATCH,
    BUNDLE,
    CUT,
    Decoding,
    Execution,
    decode_options,
    languages,
    load_model,
    progress_bar,
    runtime_options,
    say_cut,
)
from seq2edge.commands.output import (
    JSON,
    LOGPROBS,
    OUTPUT,
    AnswerNotes,
    Destination,
    check_logprobs,
)
from seq2edge.commands.terminal import show
from seq2edge.commands.texts import FILE, TEXTS, TextQueue, count_inputs, read_inputs

if TYPE_CHECKING:
    from seq2edge.runtime.model import Model
    from seq2edge.runtime.options import DecodeOptions
    from seq2edge.runtime.sequences import GeneratedText
    from seq2edge.runtime.streaming import TextStream


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
