"""`seq2edge fill`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import BinaryIO

import click

from seq2edge.commands.options import (
    BUNDLE,
    CUT,
    Execution,
    load_model,
    runtime_options,
    say_cut,
)
from seq2edge.commands.output import JSON
from seq2edge.commands.terminal import show
from seq2edge.commands.texts import FILE, TEXTS, read_inputs


@click.command()
@BUNDLE
@TEXTS
@FILE
@JSON
@click.option(
    "--top", type=click.IntRange(1), default=5, show_default=True, help="So many words a mask."
)
@CUT
@runtime_options
def fill(
    bundle: Path,
    texts: tuple[str, ...],
    file: BinaryIO | None,
    *,
    as_json: bool,
    top: int,
    cut: bool,
    execution: Execution,
) -> None:
    """Print what may stand in the masks of each TEXT.

    A line has score, token and the text with it; an empty line ends a mask, and stands for a blank
    line. Masks are written as the tokenizer has it, often [MASK] or <mask>.
    """
    inputs = read_inputs(texts, file)
    model = load_model(bundle, execution, cut=cut)
    for text in inputs:
        fillings = model.fill(text, top_k=top) if text.strip() else []
        if as_json:
            masks = [[dataclasses.asdict(each) for each in mask] for mask in fillings]
            show(json.dumps({"input": text, "masks": masks}, ensure_ascii=False))
            continue
        for mask in fillings:
            for each in mask:
                show(f"{each.score:.4f}\t{each.token}\t{each.text}")
            click.echo()
        if not fillings:
            click.echo()
    if cut:
        say_cut(model)
