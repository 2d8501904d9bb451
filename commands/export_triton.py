"""`seq2edge export-triton`."""

from __future__ import annotations

from pathlib import Path

import click

from seq2edge.commands.options import (
    BATCH,
    BUNDLE,
    CUT,
    PATH,
    THREADS,
    Decoding,
    decode_options,
    languages,
)
from seq2edge.serve.predictor import TASKS


@click.command("export-triton")
@BUNDLE
@click.option("-o", "--output", metavar="REPOSITORY", type=PATH, required=True)
@click.option("--task", type=click.Choice(TASKS), required=True, help="What becomes of a row.")
@click.option("--name", help="Of the model; by default the bundle's folder.")
@click.option("--device", type=click.Choice(["cpu", "cuda", "tensorrt"]), default="cpu")
@click.option("--instances", type=click.IntRange(1), default=1, help="Processes with a model.")
@click.option(
    "--delay",
    type=click.IntRange(0),
    default=2000,
    show_default=True,
    help="Microseconds that a request waits for others.",
)
@THREADS
@BATCH
@CUT
@languages
@decode_options
def export_triton(
    bundle: Path,
    *,
    output: Path,
    task: str,
    name: str | None,
    device: str,
    instances: int,
    delay: int,
    threads: int | None,
    batch: int,
    cut: bool,
    source_language: str | None,
    target_language: str | None,
    decoding: Decoding,
) -> None:
    """Put BUNDLE into a model repository of Triton.

    For its python backend, whose Python needs seq2edge. A request's `row` is a line as `batch`
    reads it, its `answer` one as `batch` writes it; Triton gathers requests into batches.
    """
    if decoding.draft is not None:
        raise click.UsageError("--draft: a repository holds one bundle")
    from seq2edge.serve.predictor import Predictor
    from seq2edge.serve.triton import export_triton as write

    predictor = Predictor(
        bundle=str(bundle),
        task=task,
        load={"device": device, "threads": threads, "cut": cut},
        decode=decoding.changes(),
        source_language=source_language,
        target_language=target_language,
        batch=batch,
    )
    folder = write(
        predictor,
        output,
        name or bundle.absolute().name,
        instances=instances,
        delay=delay,
    )
    click.echo(str(folder))
