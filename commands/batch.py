"""`seq2edge batch`."""

from __future__ import annotations

import os
from pathlib import Path

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
    progress_bar,
    runtime_options,
)
from seq2edge.serve.predictor import TASKS


@click.command()
@BUNDLE
@click.argument("source", metavar="IN", type=PATH)
@click.argument("destination", metavar="OUT", type=PATH)
@click.option("--task", type=click.Choice(TASKS), required=True, help="What becomes of a line.")
@click.option(
    "--processes", type=click.IntRange(1), default=1, show_default=True, help="Each has a model."
)
@click.option(
    "--ray",
    is_flag=True,
    help="Run the processes on Ray's cluster (RAY_ADDRESS), or on a local one of Ray's.",
)
@click.option(
    "--rows",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Lines of a shard; a run that was cut goes on behind its finished shards.",
)
@BATCH
@CUT
@languages
@decode_options
@runtime_options
def batch(
    bundle: Path,
    source: Path,
    destination: Path,
    *,
    task: str,
    processes: int,
    ray: bool,
    rows: int,
    batch: int,
    cut: bool,
    source_language: str | None,
    target_language: str | None,
    decoding: Decoding,
    execution: Execution,
) -> None:
    """Answer every line of a file with BUNDLE.

    IN has a JSON object a line: {"text": ...}, of --task chat {"messages": [...]}, transcribe
    {"audio": PATH}, rerank {"query": ..., "texts": [...]}; classify and embed also take a "pair" to
    the text, and all an "id". OUT, a new file, gets an answer a line in the same order. A line that
    cannot be answered becomes {"error": ...}, and the command then ends with exit code 1. Called
    again after it was cut, it goes on behind the shards that it finished. Where a name ends in
    .parquet, that file has rows of Parquet in the place of lines.
    """
    from seq2edge.serve.batch import in_processes, predict_file
    from seq2edge.serve.predictor import Predictor

    predictor = Predictor(
        bundle=str(bundle.absolute()),
        task=task,
        load={
            "device": execution.device,
            "threads": execution.threads or max(1, (os.cpu_count() or 1) // processes),
            "hashes": execution.hashes,
            "cut": cut,
            "draft": decoding.draft,
            **execution.demands(),
        },
        decode=decoding.changes(),
        source_language=source_language,
        target_language=target_language,
        batch=batch,
        folder=str(source.absolute().parent),
    )
    if ray:
        from seq2edge.serve.ray import on_ray

        compute = on_ray(processes)
    else:
        compute = in_processes(processes)
    with progress_bar("shards") as progress:
        outcome = predict_file(
            predictor,
            source.absolute(),
            destination.absolute(),
            rows=rows,
            compute=compute,
            progress=progress,
        )
    click.echo(f"{destination}: {outcome.lines:,} lines, {outcome.errors:,} errors", err=True)
    if outcome.errors:
        raise click.exceptions.Exit(1)
