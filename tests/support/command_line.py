"""The command line in this process."""

from __future__ import annotations

from typing import Any

from click.testing import CliRunner, Result

from seq2edge import cli


def call(*arguments: Any, **more: Any) -> Result:
    """What `seq2edge` with these arguments prints, and how it ends."""
    return CliRunner().invoke(cli.main, list(map(str, arguments)), **more)
