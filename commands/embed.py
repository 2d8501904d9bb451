"""`seq2edge embed`: a vector for each text."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

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
from seq2edge.commands.terminal import show
from seq2edge.commands.texts import FILE, PAIRS, TEXTS, batches, read_as, read_inputs

if TYPE_CHECKING:
    from seq2edge.runtime.encoders import Text
    from seq2edge.runtime.model import Model


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
            lines = list(_embedded(model, read_as(group, pairs=pairs), prompt, dimensions))
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
