"""Talking with a model: `chat`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from seq2edge.commands.options import (
    BUNDLE,
    PATH,
    Decoding,
    Execution,
    decode_options,
    load_model,
    runtime_options,
)
from seq2edge.commands.terminal import show
from seq2edge.errors import InputError, Seq2EdgeError
from seq2edge.files.records import parse_json, record_errors
from seq2edge.files.storage import file_errors, read_regular

if TYPE_CHECKING:
    from seq2edge.runtime.session import Session
    from seq2edge.runtime.streaming import TextStream
    from seq2edge.runtime.tools import ToolCall, Tools

LARGEST_TOOLS = 2**20  # bytes of a file of them
HELP = "/reset forgets the conversation, /undo the last turn, /quit or Ctrl-D ends"


@click.command()
@BUNDLE
@click.option("--system", help="What the model is told before the conversation.")
@click.option(
    "--tools",
    "tools_file",
    type=PATH,
    help="Functions that it may call, a JSON list as OpenAI's API has; what one gives is typed in.",
)
@decode_options
@runtime_options
def chat(
    bundle: Path,
    *,
    system: str | None,
    tools_file: Path | None,
    decoding: Decoding,
    execution: Execution,
) -> None:
    """Talk with BUNDLE; what was said stays in its cache.

    Lines are read from standard input, with a history where it is a terminal. Ctrl-C ends an
    answer and keeps what it has.
    """
    tools = None if tools_file is None else _read_tools(tools_file)
    model = load_model(bundle, execution, draft=decoding.draft)
    session = model.session(decoding.over(model.options), system=system, tools=tools)
    click.echo(f"seq2edge: {HELP}", err=True)
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - lines of `input` can be edited and called back with it
    while True:
        text = _line("> ")
        if text in (None, "/quit", "/exit"):
            return
        if text == "/reset":
            session.reset()
        elif text == "/undo":
            session.undo()
        elif text.startswith("/"):
            click.echo(f"seq2edge: {HELP}", err=True)
        elif text:
            _answer(session, text)


def _line(prompt: str) -> str | None:
    """What is typed next, None at the end."""
    try:
        return input(prompt).strip()
    except (EOFError, KeyboardInterrupt):
        click.echo()
        return None
    except UnicodeDecodeError as error:
        raise InputError(f"standard input: no UTF-8 from byte {error.start + 1} on") from None


def _read_tools(file: Path) -> Tools:
    from seq2edge.runtime.tools import Tools

    with file_errors(file, InputError), record_errors(file, InputError):
        definitions = parse_json(read_regular(file, LARGEST_TOOLS, InputError))
    if not isinstance(definitions, list):
        raise InputError(f"{file}: needs a list of tools")
    return Tools(definitions)


def _print(stream: TextStream) -> None:
    try:
        for piece in stream:
            show(piece, nl=False)
    except KeyboardInterrupt:
        stream.cancel()
        _print(stream)


def _answer(session: Session, text: str) -> None:
    """Print the answer as it is generated; an interrupt ends it where it is.

    What it calls is printed, and what that gives asked for.
    """
    try:
        stream = session.stream(text)
        _print(stream)
        while calls := stream.result.tool_calls:
            results = _results(calls)
            if results is None:
                session.undo()
                return
            stream = session.stream_after(results)
            _print(stream)
    except Seq2EdgeError as error:
        click.echo(f"seq2edge: {error}; /reset begins anew", err=True)
        session.undo()
        return
    click.echo()
    if stream.result.finish_reason == "length":
        click.echo("seq2edge: ended at the limit of tokens; --max-new-tokens sets it", err=True)


def _results(calls: Sequence[ToolCall]) -> dict[str, str] | None:
    """What each call gave, by its id; None where nothing more is typed."""
    results = {}
    for call in calls:
        show(f"\n{call.name} {json.dumps(call.arguments, ensure_ascii=False)}")
        line = _line(f"{call.name}> ")
        if line is None:
            return None
        results[call.id] = line
    return results
