"""`seq2edge doctor`."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def doctor(*, as_json: bool) -> None:
    """Say what this machine has, and what to install."""
    from seq2edge.runtime.backends.diagnosis import diagnose

    findings = diagnose()
    if as_json:
        click.echo(json.dumps([vars(finding) for finding in findings], indent=2))
        return
    for finding in findings:
        click.echo(f"{'ok' if finding.works else '--'}  {finding.subject:<22}{finding.detail}")
