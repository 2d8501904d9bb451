"""`seq2edge rerank`."""

from __future__ import annotations

import dataclasses
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
from seq2edge.commands.texts import FILE, TEXTS, read_inputs


@click.command()
@BUNDLE
@click.argument("query")
@TEXTS
@FILE
@JSON
@click.option("--top", type=click.IntRange(1), metavar="N", help="Print the best N alone.")
@click.option("--instruction", help="What counts, to a reranker that is a language model.")
@BATCH
@CUT
@runtime_options
def rerank(
    bundle: Path,
    query: str,
    texts: tuple[str, ...],
    file: BinaryIO | None,
    *,
    as_json: bool,
    top: int | None,
    instruction: str | None,
    batch: int,
    cut: bool,
    execution: Execution,
) -> None:
    """Print each TEXT behind how well it answers QUERY, best first.

    BUNDLE is a classifier of pairs with one label, or a language model that was exported with
    --task rerank. Blank lines are left out.
    """
    inputs = [text for text in read_inputs(texts, file) if text.strip()]
    model = load_model(bundle, execution, cut=cut)
    for ranked in model.rerank(query, inputs, instruction=instruction, batch=batch)[:top]:
        if as_json:
            show(json.dumps(dataclasses.asdict(ranked), ensure_ascii=False))
        else:
            show(f"{ranked.score:.4f}\t{ranked.text}")
    if cut:
        say_cut(model)
