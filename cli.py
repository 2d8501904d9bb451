"""The command line, assembled: every command is in `commands/`.

Results go to stdout, progress and remarks to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage.
Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

from typing import Any

import click

from seq2edge import __version__
from seq2edge.commands.answer import answer
from seq2edge.commands.batch import batch
from seq2edge.commands.build import build, targets
from seq2edge.commands.bundle import inspect, pack, unpack, verify
from seq2edge.commands.canary import canary
from seq2edge.commands.chat import chat
from seq2edge.commands.classify import classify
from seq2edge.commands.clean import clean
from seq2edge.commands.convert_weights import convert_weights
from seq2edge.commands.distil import distil
from seq2edge.commands.doctor import doctor
from seq2edge.commands.embed import embed
from seq2edge.commands.evaluate import audit, evaluate
from seq2edge.commands.export import export
from seq2edge.commands.export_triton import export_triton
from seq2edge.commands.fill import fill
from seq2edge.commands.listen import listen
from seq2edge.commands.quantize import quantize
from seq2edge.commands.read import read
from seq2edge.commands.rerank import rerank
from seq2edge.commands.run import run
from seq2edge.commands.serve import serve
from seq2edge.commands.shortlist import shortlist
from seq2edge.commands.speech import transcribe
from seq2edge.commands.sweep import sweep
from seq2edge.commands.tag import tag
from seq2edge.commands.train import train
from seq2edge.errors import Seq2EdgeError, one_line

# As `seq2edge --help` lists them.
GROUPS = {
    "Make a bundle": [
        convert_weights,
        export,
        shortlist,
        quantize,
        targets,
        build,
        pack,
        unpack,
        clean,
    ],
    "Run it": [
        run,
        chat,
        transcribe,
        listen,
        read,
        classify,
        rerank,
        embed,
        tag,
        answer,
        fill,
    ],
    "Serve it": [serve, batch, export_triton],
    "Measure it": [verify, inspect, evaluate, audit, doctor],
    "Train": [train, sweep, distil, canary],
}


class _Commands(click.Group):
    """Commands in groups, whose errors become one line on stderr and exit code 1."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section of the help for each group."""
        width = max(map(len, self.list_commands(ctx)))
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (f"{command.name:{width}}", command.get_short_help_str(limit=70))
                        for command in commands
                    ]
                )

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Seq2EdgeError as error:
            raise click.ClickException(str(error)) from error
        except MemoryError as error:
            raise click.ClickException(f"out of memory {one_line(str(error))}".strip()) from error


HELP_NAMES = ["-h", "--help"]


@click.group(cls=_Commands, context_settings={"help_option_names": HELP_NAMES})
@click.version_option(__version__, prog_name="seq2edge")
def main() -> None:
    """From a Transformer checkpoint to cached decoding on an edge device."""


for _commands in GROUPS.values():
    for _command in _commands:
        # Its own, since a command keeps the names with which it was first asked, by whomever.
        _command.context_settings["help_option_names"] = HELP_NAMES
        main.add_command(_command)


if __name__ == "__main__":
    main()
