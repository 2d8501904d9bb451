"""`seq2edge answer`."""

from __future__ import annotations

import codecs
import dataclasses
import json
from pathlib import Path
from typing import BinaryIO

import click

from seq2edge.commands.options import BATCH, BUNDLE, Execution, load_model, runtime_options
from seq2edge.commands.output import JSON
from seq2edge.commands.terminal import show
from seq2edge.errors import InputError


@click.command()
@BUNDLE
@click.argument("question")
@click.argument("context", required=False)
@click.option("-f", "--file", type=click.File("rb"), help="The context, a whole file in UTF-8.")
@JSON
@click.option(
    "--top", type=click.IntRange(1), default=1, show_default=True, help="So many answers."
)
@click.option(
    "--longest", type=click.IntRange(1), default=15, show_default=True, help="Tokens of an answer."
)
@click.option("--may-be-empty", is_flag=True, help="That there is none is an answer, too.")
@click.option("--window", type=click.IntRange(1), help="Tokens read at a time, question included.")
@click.option("--overlap", type=click.IntRange(0), help="Tokens that two windows share.")
@BATCH
@runtime_options
def answer(
    bundle: Path,
    question: str,
    context: str | None,
    *,
    file: BinaryIO | None,
    as_json: bool,
    top: int,
    longest: int,
    may_be_empty: bool,
    window: int | None,
    overlap: int | None,
    batch: int,
    execution: Execution,
) -> None:
    """Print the parts of CONTEXT that answer QUESTION.

    A line has score, first character, end and words.
    """
    if (context is None) == (file is None):
        raise click.UsageError("give a context or --file")
    if file is not None:
        try:
            context = file.read().removeprefix(codecs.BOM_UTF8).decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{file.name}: is no UTF-8, {error.reason}; convert it") from None
    assert context is not None
    model = load_model(bundle, execution)
    answers = model.answer(
        question,
        context,
        top_k=top,
        longest=longest,
        may_be_empty=may_be_empty,
        window=window,
        overlap=overlap,
        batch=batch,
    )
    if as_json:
        values = {"question": question, "answers": [dataclasses.asdict(each) for each in answers]}
        show(json.dumps(values, ensure_ascii=False))
        return
    for each in answers:
        text = " ".join(each.text.split())
        show(f"{each.score:.4f}\t{each.start}\t{each.end}\t{text}")
