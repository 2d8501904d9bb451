"""What a model or its makers wrote, on a terminal: shown, and never acted on."""

from __future__ import annotations

import sys
from typing import IO, Any

import click

from seq2edge.errors import printable


def show(text: str, *, nl: bool = True, err: bool = False, file: IO[Any] | None = None) -> None:
    """`click.echo`, whose escape sequences are written out where a terminal would obey them.

    Files and pipes get the text as it is: what reads them wants it whole.
    """
    stream = file or (sys.stderr if err else sys.stdout)
    click.echo(printable(text) if stream.isatty() else text, nl=nl, err=err, file=file)
