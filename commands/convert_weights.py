"""`seq2edge convert-weights`."""

from __future__ import annotations

from pathlib import Path

import click

from seq2edge.commands.options import PATH


@click.command()
@click.argument("checkpoint", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the new checkpoint.")
def convert_weights(checkpoint: Path, output: Path) -> None:
    """Copy a CHECKPOINT with safetensors in place of pickled weights.

    The pickles are read in a process of their own and as tensors alone: nothing in them is run.
    """
    try:
        from seq2edge.checkpoints import pickled
    except ImportError as error:
        raise click.ClickException(f"convert-weights: {error}; install seq2edge[export]") from error
    made = pickled.convert_weights(checkpoint, output)
    for name, first in made.second_names.items():
        click.echo(f"kept once: {name} is {first}", err=True)
    click.echo(f"{made.path} ({made.tensors:,} tensors)")
