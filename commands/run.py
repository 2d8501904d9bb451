"""Running a bundle: `run`, `transcribe`, `classify` and `embed`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

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
    runtime_options,
    say_cut,
)

if TYPE_CHECKING:
    from seq2edge.runtime.sequences import GeneratedText

TEXTS = click.argument("texts", nargs=-1, metavar="[TEXT|-]...")
FILE = click.option(
    "-f", "--file", type=click.File("r", encoding="utf-8"), help="One input per line."
)
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object per input.")


@click.command()
@BUNDLE
@TEXTS
@FILE
@JSON
@BATCH
@CUT
@languages
@click.option("--chat", is_flag=True, help="Take each text as a user's message.")
@decode_options
@runtime_options
def run(
    bundle: Path,
    texts: tuple[str, ...],
    file: TextIO | None,
    *,
    as_json: bool,
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
    inputs = read_inputs(texts, file)
    model = load_model(bundle, execution, cut=cut)
    options = decoding.over(model.options)

    def generate(group: list[str]) -> list[list[GeneratedText]]:
        if chat:
            return [model.chat([{"role": "user", "content": text}], options) for text in group]
        return model.generate(
            group, options, source_language=source_language, target_language=target_language
        )

    for group in batches(inputs, batch):
        answers = iter(generate([text for text in group if text.strip()]))
        for source in group:
            # A blank line gives blank lines, so that line n still answers line n.
            answer = next(answers) if source.strip() else []
            _print_texts(source, answer, as_json=as_json)
            if not answer and not as_json:
                click.echo("\n" * (options.num_return_sequences - 1))
    if cut:
        say_cut(model)


@click.command()
@BUNDLE
@click.argument("clips", nargs=-1, required=True, type=PATH)
@JSON
@click.option("--language", help="Spoken language, where the model knows several.")
@click.option(
    "--task",
    type=click.Choice(["transcribe", "translate"]),
    default="transcribe",
    show_default=True,
    help="Keep the language or translate to English.",
)
@decode_options
@runtime_options
def transcribe(
    bundle: Path,
    clips: tuple[Path, ...],
    *,
    as_json: bool,
    language: str | None,
    task: str,
    decoding: Decoding,
    execution: Execution,
) -> None:
    """Transcribe WAVE files (CLIPS) of up to 30 seconds with BUNDLE."""
    model = load_model(bundle, execution)
    options = decoding.over(model.options)
    for clip in clips:
        texts = model.transcribe([clip], options, language=language, task=task)[0]
        _print_texts(str(clip), texts, as_json=as_json)


@click.command()
@BUNDLE
@TEXTS
@FILE
@JSON
@BATCH
@CUT
@runtime_options
def classify(
    bundle: Path,
    texts: tuple[str, ...],
    file: TextIO | None,
    *,
    as_json: bool,
    batch: int,
    cut: bool,
    execution: Execution,
) -> None:
    """Print the label of each TEXT."""
    inputs = read_inputs(texts, file)
    model = load_model(bundle, execution, cut=cut)
    for group in batches(inputs, batch):
        for text, result in zip(group, model.classify(group), strict=True):
            if as_json:
                values = {"input": text, "label": result.label, "scores": result.scores}
                click.echo(json.dumps(values, ensure_ascii=False))
            else:
                click.echo(f"{result.label}\t{result.scores[result.label]:.4f}")
    if cut:
        say_cut(model)


@click.command()
@BUNDLE
@TEXTS
@FILE
@BATCH
@CUT
@runtime_options
def embed(
    bundle: Path,
    texts: tuple[str, ...],
    file: TextIO | None,
    *,
    batch: int,
    cut: bool,
    execution: Execution,
) -> None:
    """Print the embedding of each TEXT as JSON."""
    inputs = read_inputs(texts, file)
    model = load_model(bundle, execution, cut=cut)
    for group in batches(inputs, batch):
        for text, vector in zip(group, model.embed(group), strict=True):
            values = {"input": text, "embedding": [float(x) for x in vector]}
            click.echo(json.dumps(values, ensure_ascii=False))
    if cut:
        say_cut(model)


def read_inputs(texts: tuple[str, ...], file: TextIO | None) -> Iterator[str]:
    """The arguments, `-` for the lines of stdin, then the lines of the file."""
    if not texts and file is None:
        raise click.UsageError("give a text, - for standard input, or --file")
    return _read(texts, file)


def _read(texts: tuple[str, ...], file: TextIO | None) -> Iterator[str]:
    for text in texts:
        if text == "-":
            yield from _lines(sys.stdin)
        else:
            yield text
    if file is not None:
        yield from _lines(file)


def _lines(stream: TextIO) -> Iterator[str]:
    """Every line, blank ones too, without its end."""
    for line in stream:
        yield line.rstrip("\r\n")


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


def _print_texts(source: str, texts: list[GeneratedText], *, as_json: bool) -> None:
    """What the model made of one input: a line a result, or one JSON object."""
    if as_json:
        results = [
            {"text": t.text, "ids": list(t.ids), "score": t.score, "finished": t.finished}
            for t in texts
        ]
        click.echo(json.dumps({"input": source, "results": results}, ensure_ascii=False))
        return
    for text in texts:
        click.echo(text.text)
