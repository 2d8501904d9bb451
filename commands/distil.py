"""`seq2edge distil`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from seq2edge.commands.options import (
    BUNDLE,
    PATH,
    Decoding,
    Execution,
    decode_options,
    languages,
    load_model,
    runtime_options,
)


@click.command()
@BUNDLE
@click.argument("texts", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="New file, .tsv or .jsonl.")
@click.option(
    "--batch", type=click.IntRange(1), default=32, show_default=True, help="Texts at a time."
)
@languages
@decode_options
@runtime_options
def distil(
    bundle: Path,
    texts: Path,
    output: Path,
    *,
    batch: int,
    source_language: str | None,
    target_language: str | None,
    decoding: Decoding,
    execution: Execution,
) -> None:
    """Let BUNDLE answer TEXTS, to train a smaller model on the pairs.

    TEXTS has a text a line (.txt, or .jsonl with "text"; also .gz, .bz2, .xz). A classifier
    answers with labels. Call it again to go on after a stop.
    """
    from seq2edge.training.distil import distil as run

    model = load_model(bundle, execution, draft=decoding.draft)
    done = run(
        model,
        texts,
        output,
        options=decoding.over(model.options),
        source_language=source_language,
        target_language=target_language,
        batch=batch,
        progress=_show if sys.stderr.isatty() else lambda *_: None,
    )
    click.echo(f"{done.texts:,} texts, {done.pairs:,} pairs", err=True)
    for fact, count in done.left_out.items():
        click.echo(f"left out: {count:,}, {fact}", err=True)
    for line in done.first:
        click.echo(f"  {line}", err=True)
    click.echo(done.path)


def _show(lines: int, pairs: int) -> None:
    click.echo(f"line {lines:,}, {pairs:,} pairs" + " " * 20 + "\r", nl=False, err=True)
