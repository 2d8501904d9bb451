"""`seq2edge sweep`."""

from __future__ import annotations

from pathlib import Path

import click

from seq2edge.commands.options import PATH, SET
from seq2edge.commands.train import changes_of, lines_to_stderr


@click.command(short_help="Train RECIPE in several sizes, and fit how the loss falls.")
@click.argument("recipe", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the sweep.")
@click.option(
    "--sizes", required=True, metavar="SIZE,...", help="Presets, or WIDTHxLAYERS as 64x2."
)
@click.option(
    "--rows", default="all", show_default=True, metavar="ROWS,...", help="Training rows, or all."
)
@click.option("--steps", type=click.IntRange(1), help="Steps of every run; the recipe's if unset.")
@click.option(
    "--flops",
    type=click.FloatRange(0, min_open=True),
    help="Operations of every run instead, as 6 x parameters x tokens.",
)
@SET
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--processes", type=click.IntRange(1), default=1, help="Processes of each run.")
@click.option("--workers", type=click.IntRange(0), default=0, help="Processes that read data.")
def sweep(
    recipe: Path,
    output: Path,
    *,
    sizes: str,
    rows: str,
    steps: int | None,
    flops: float | None,
    settings: tuple[str, ...],
    device: str,
    processes: int,
    workers: int,
) -> None:
    """Train RECIPE in several sizes on several amounts of data, and fit how the loss falls.

    Each run is a folder in OUTPUT that `seq2edge export` can use; the same command goes on where
    it was stopped. The table and what it says are printed, sweep.json and sweep.png written.
    """
    try:
        from seq2edge.training.recipe import read_recipe
        from seq2edge.training.sweep import PLOT, Budget
        from seq2edge.training.sweep import sweep as run
        from seq2edge.training.sweep_report import draw, sentences, table
        from seq2edge.training.train import Machine
    except ImportError as error:
        raise click.ClickException(f"sweep: {error}; install seq2edge[train,cpu]") from error
    result = run(
        read_recipe(recipe, changes_of(settings, None)),
        output,
        sizes=[size.strip() for size in sizes.split(",")],
        rows=[_rows(text.strip()) for text in rows.split(",")],
        budget=Budget(steps=steps or 0, flops=flops or 0.0),
        machine=Machine(device=device, processes=processes, workers=workers),
        say=lines_to_stderr(),
    )
    click.echo(table(result.runs))
    for line in sentences(result):
        click.echo(line)
    draw(result, output / PLOT)
    click.echo(output / PLOT)


def _rows(text: str) -> int:
    if text == "all":
        return 0
    if not text.isdecimal() or not int(text):
        raise click.BadParameter(f"{text!r} is no number of rows", param_hint="--rows")
    return int(text)
