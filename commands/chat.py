"""Talking with a model: `chat`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from seq2edge.commands.options import (
    BUNDLE,
    Decoding,
    Execution,
    decode_options,
    load_model,
    runtime_options,
)
from seq2edge.commands.terminal import show
from seq2edge.errors import Seq2EdgeError

if TYPE_CHECKING:
    from seq2edge.runtime.session import Session
    from seq2edge.runtime.streaming import TextStream

HELP = "/reset forgets the conversation, /undo the last turn, /quit or Ctrl-D ends"


@click.command()
@BUNDLE
@click.option("--system", help="What the model is told before the conversation.")
@decode_options
@runtime_options
def chat(bundle: Path, *, system: str | None, decoding: Decoding, execution: Execution) -> None:
    """Talk with BUNDLE; what was said stays in its cache.

    Lines are read from standard input, with a history where it is a terminal. Ctrl-C ends an
    answer and keeps what it has.
    """
    model = load_model(bundle, execution, draft=decoding.draft)
    session = model.session(decoding.over(model.options), system=system)
    click.echo(f"seq2edge: {HELP}", err=True)
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - lines of `input` can be edited and called back with it
    while True:
        try:
            text = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        if text in ("/quit", "/exit"):
            return
        if text == "/reset":
            session.reset()
        elif text == "/undo":
            session.undo()
        elif text.startswith("/"):
            click.echo(f"seq2edge: {HELP}", err=True)
        elif text:
            _answer(session, text)


def _print(stream: TextStream) -> None:
    try:
        for piece in stream:
            show(piece, nl=False)
    except KeyboardInterrupt:
        stream.cancel()
        _print(stream)


def _answer(session: Session, text: str) -> None:
    """Print the answer as it is generated; an interrupt ends it where it is."""
    try:
        stream = session.stream(text)
        _print(stream)
    except Seq2EdgeError as error:
        click.echo(f"seq2edge: {error}; /reset begins anew", err=True)
        session.undo()
        return
    click.echo()
    if stream.result.finish_reason == "length":
        click.echo("seq2edge: ended at the limit of tokens; --max-new-tokens sets it", err=True)
