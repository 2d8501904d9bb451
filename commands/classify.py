"""`seq2edge classify`: the label of each text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import BinaryIO

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
from seq2edge.commands.texts import FILE, PAIRS, TEXTS, batches, read_as, read_inputs


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
        for text, result in zip(group, model.classify(read_as(group, pairs=pairs)), strict=True):
            if as_json:
                values = {"input": text, "label": result.label, "scores": result.scores}
                show(json.dumps(values, ensure_ascii=False))
            else:
                show(f"{result.label}\t{result.scores[result.label]:.4f}")
    if cut:
        say_cut(model)
