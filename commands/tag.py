"""`seq2edge tag`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from seq2edge.commands.options import (
    BATCH,
    BUNDLE,
    CUT,
    Execution,
    load_model,
    runtime_options,
    say_cut,
)
from seq2edge.commands.output import JSON
from seq2edge.commands.terminal import show
from seq2edge.commands.texts import FILE, TEXTS, batches, read_inputs

if TYPE_CHECKING:
    from seq2edge.runtime.tagging import Aggregation


@click.command()
@BUNDLE
@TEXTS
@FILE
@JSON
@click.option(
    "--aggregation",
    type=click.Choice(["none", "simple", "first", "average", "max"]),
    default="simple",
    show_default=True,
    help="How tokens become entities; the last three give a word one label.",
)
@click.option(
    "--ignore", multiple=True, default=["O"], show_default=True, help="Labels to leave out; repeat."
)
@click.option(
    "--overlap",
    type=click.IntRange(0),
    metavar="N",
    help="Read long texts in parts that share N tokens.",
)
@BATCH
@CUT
@runtime_options
def tag(
    bundle: Path,
    texts: tuple[str, ...],
    file: BinaryIO | None,
    *,
    as_json: bool,
    aggregation: Aggregation,
    ignore: tuple[str, ...],
    overlap: int | None,
    batch: int,
    cut: bool,
    execution: Execution,
) -> None:
    """Print the entities of each TEXT.

    A line has label, score, first character, end and words; an empty line ends a text.
    """
    inputs = read_inputs(texts, file)
    model = load_model(bundle, execution, cut=cut)
    for group in batches(inputs, batch):
        tagged = model.tag(
            group, aggregation=aggregation, ignore=ignore, overlap=overlap, batch=batch
        )
        for text, entities in zip(group, tagged, strict=True):
            if as_json:
                values = {
                    "input": text,
                    "entities": [dataclasses.asdict(each) for each in entities],
                }
                show(json.dumps(values, ensure_ascii=False))
                continue
            for each in entities:
                spelled = " ".join(text[each.start : each.end].split())
                show(f"{each.label}\t{each.score:.4f}\t{each.start}\t{each.end}\t{spelled}")
            click.echo()
    if cut:
        say_cut(model)
