"""`seq2edge clean`."""

from __future__ import annotations

from pathlib import Path

import click

from seq2edge.commands.options import PATH
from seq2edge.files import leftovers


@click.command()
@click.argument("folders", type=PATH, nargs=-1, metavar="[PATH]...")
@click.option("--dry-run", is_flag=True, help="Remove nothing, say what would be.")
def clean(folders: tuple[Path, ...], *, dry_run: bool) -> None:
    """Remove what killed runs left in PATH and below.

    What they were replacing when they were killed is finished. Without a PATH: in the current
    folder and below, in the caches (ours and the hub's), and among the temporary files. Live runs
    are left alone.
    """
    count = total = 0
    for leftover in leftovers.clean(folders, dry_run=dry_run):
        click.echo(
            f"{'would remove' if dry_run else 'removed'} {leftover.path}, {leftover.size:,} bytes"
        )
        count, total = count + 1, total + leftover.size
    click.echo(f"{count} {'leftover' if count == 1 else 'leftovers'}, {total:,} bytes")
