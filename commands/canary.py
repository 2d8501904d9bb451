"""`seq2edge canary`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from seq2edge.commands.options import PATH, SET
from seq2edge.commands.train import changes_of, lines_to_stderr


@click.command()
@click.argument("recipe", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Go on from the run's last check.")
@click.option("--start", type=PATH, help="Checkpoint to start from.")
@SET
@click.option("--count", type=click.IntRange(1), default=10, show_default=True, help="Canaries.")
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How often each stands among the training rows.",
)
@click.option(
    "--digits", type=click.IntRange(2, 9), default=6, show_default=True, help="Of each number."
)
@click.option(
    "--candidates",
    type=click.IntRange(2),
    default=1000,
    show_default=True,
    help="Numbers that each canary is ranked among.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per canary.")
def canary(
    recipe: Path,
    output: Path,
    *,
    resume: bool,
    start: Path | None,
    settings: tuple[str, ...],
    count: int,
    repeats: int,
    digits: int,
    candidates: int,
    device: str,
    as_json: bool,
) -> None:
    """Tell how much a training by RECIPE memorises.

    Texts with random numbers ("canaries") are put among the training rows, the model is trained,
    and each number is ranked by likelihood among others. Exposure is log2 of the candidates minus
    log2 of the rank: 1.4 bits on average for a number that was never read, log2 of the candidates
    for one that was memorised. The model knows the canaries: throw it away.
    """
    try:
        from seq2edge.training.canary import CHANCE, Settings, measure_exposure
        from seq2edge.training.recipe import read_recipe
        from seq2edge.training.train import Machine
    except ImportError as error:
        raise click.ClickException(f"canary: {error}; install seq2edge[train,cpu]") from error
    exposures = measure_exposure(
        read_recipe(recipe, changes_of(settings, start)),
        output,
        Settings(count=count, repeats=repeats, digits=digits, candidates=candidates),
        resume=resume,
        machine=Machine(device=device),
        say=lines_to_stderr(),
    )
    for exposure in exposures:
        if as_json:
            click.echo(json.dumps(vars(exposure)))
        else:
            click.echo(f"{exposure.number}\trank {exposure.rank:,}\t{exposure.bits:.1f} bits")
    mean = sum(exposure.bits for exposure in exposures) / len(exposures)
    click.echo(f"mean exposure {mean:.1f} bits; {CHANCE:.1f} where nothing is memorised", err=True)
