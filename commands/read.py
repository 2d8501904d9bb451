"""`seq2edge read`: what images show, as text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from seq2edge.commands.options import (
    BATCH,
    BUNDLE,
    PATH,
    Decoding,
    Execution,
    decode_options,
    load_model,
    runtime_options,
)
from seq2edge.commands.output import JSON, LOGPROBS, AnswerNotes, Destination, check_logprobs
from seq2edge.commands.texts import batches

if TYPE_CHECKING:
    from seq2edge.runtime.sequences import GeneratedText


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
