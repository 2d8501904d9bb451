"""`seq2edge train`."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from seq2edge.commands.options import PATH, SET


@click.command()
@click.argument("recipe", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Go on from the run's last check.")
@click.option("--start", type=PATH, help="Checkpoint to start from.")
@SET
@click.option(
    "--private-epsilon", type=float, help="Differential privacy: the budget (privacy.epsilon)."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--processes", type=click.IntRange(1), default=1, help="Processes on each machine.")
@click.option("--machines", type=click.IntRange(1), default=1, help="Machines, under torchrun.")
@click.option(
    "--strategy",
    type=click.Choice(["auto", "ddp", "fsdp"]),
    default="auto",
    show_default=True,
    help="How processes share the work.",
)
@click.option("--workers", type=click.IntRange(0), default=0, help="Processes that read data.")
@click.option("--tensorboard", is_flag=True, help="Write logs for TensorBoard too.")
@click.option(
    "--stored",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Type of the saved weights.",
)
def train(
    recipe: Path,
    output: Path,
    *,
    resume: bool,
    start: Path | None,
    settings: tuple[str, ...],
    private_epsilon: float | None,
    device: str,
    processes: int,
    machines: int,
    strategy: Literal["auto", "ddp", "fsdp"],
    workers: int,
    tensorboard: bool,
    stored: Literal["float32", "float16"],
) -> None:
    """Train what RECIPE (a TOML file) says, and save a checkpoint.

    The checkpoint is OUTPUT/model; `seq2edge export` makes a bundle of it, and another training
    can start from it.
    """
    try:
        from seq2edge.training.processes import first_process
        from seq2edge.training.recipe import read_recipe
        from seq2edge.training.train import Machine
        from seq2edge.training.train import train as run
    except ImportError as error:
        raise click.ClickException(f"train: {error}; install seq2edge[train,cpu]") from error
    changes = changes_of(settings, start)
    if private_epsilon is not None:
        changes["privacy.epsilon"] = private_epsilon
    trained = run(
        read_recipe(recipe, changes),
        output,
        resume=resume,
        machine=Machine(
            device=device,
            processes=processes,
            machines=machines,
            strategy=strategy,
            workers=workers,
            tensorboard=tensorboard,
        ),
        stored=stored,
        say=lines_to_stderr(),
    )
    if not first_process():
        return
    loss = trained.validation_loss
    shown = f", validation loss {loss:.4f}" if loss is not None else ""
    click.echo(f"{trained.steps:,} steps in {trained.seconds / 60:.1f} minutes{shown}", err=True)
    click.echo(trained.checkpoint)


def lines_to_stderr() -> Callable[[str], None]:
    """Prints lines; one that begins with a carriage return is written over by the next.

    Where stderr is no screen, such lines are printed twice a minute at most.
    """
    screen, printed = sys.stderr.isatty(), -math.inf

    def say(line: str) -> None:
        nonlocal printed
        passing, text = line.startswith("\r"), line.lstrip("\r")
        if screen:
            click.echo(f"\r{text:<78}", nl=not passing, err=True)
        elif not passing or time.monotonic() - printed >= 30:
            click.echo(text, err=True)
            printed = time.monotonic() if passing else printed

    return say


def changes_of(settings: tuple[str, ...], start: Path | None) -> dict[str, Any]:
    """What the command line changes in a recipe."""
    changes = dict(map(_setting, settings))
    return changes if start is None else {**changes, "start": str(start.resolve())}


def _setting(text: str) -> tuple[str, Any]:
    """`key=value`, the value as TOML where it is that, else as text."""
    from seq2edge.training.recipe import parse_value

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--set")
    return key, parse_value(value)
