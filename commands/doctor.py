"""`seq2edge doctor`."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def doctor(*, as_json: bool) -> None:
    """Say what this machine has, and what to install."""
    from seq2edge.runtime.backends.diagnosis import diagnose

    components = diagnose()
    if as_json:
        click.echo(json.dumps([vars(component) for component in components], indent=2))
        return
    for component in components:
        click.echo(
            f"{'ok' if component.works else '--'}  {component.subject:<22}{component.detail}"
        )
