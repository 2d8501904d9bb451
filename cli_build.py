"""The command `targets`: what engines can be built for."""

from __future__ import annotations

import dataclasses
import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Everything, with sources, as JSON.")
def targets(*, as_json: bool) -> None:
    """List what engines can be built for.

    For each target: its TensorRT, CUDA and compute capability, the graphs that its parser reads,
    where its engines are built, and what they can compute in.
    """
    from seq2edge.export.targets import TARGETS, table

    if as_json:
        found = [dataclasses.asdict(target) for target in TARGETS.values()]
        click.echo(json.dumps(found, indent=2))
        return
    for line in table():
        click.echo(line)
