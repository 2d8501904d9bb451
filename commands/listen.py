"""Transcribing what is heard: `listen`."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from seq2edge.commands.options import BUNDLE, Execution, load_model, runtime_options
from seq2edge.commands.terminal import show

if TYPE_CHECKING:
    from seq2edge.runtime.sound.arrivals import Arrivals
    from seq2edge.runtime.sound.resampling import Samples
    from seq2edge.runtime.speech.live import Listener, Update


@click.command()
@BUNDLE
@click.argument("source", required=False, metavar="[-|FILE]")
@click.option("--microphone", metavar="NAME", help="Which one, by its number or part of its name.")
@click.option("--raw", metavar="FORMAT", help="Of samples without a header, such as s16le,16000,1.")
@click.option("--language", default="auto", show_default=True, help="Spoken language.")
@click.option(
    "--step",
    type=click.FloatRange(0.1, 10),
    default=0.6,
    show_default=True,
    help="Seconds of new sound until the model reads again.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each change.")
@runtime_options
def listen(
    bundle: Path,
    source: str | None,
    *,
    microphone: str | None,
    raw: str | None,
    language: str,
    step: float,
    as_json: bool,
    execution: Execution,
) -> None:
    """Transcribe a microphone, or a pipe (-), with BUNDLE.

    Words are printed when they have settled; on a terminal those that may change follow them.
    """
    if source is not None and microphone is not None:
        raise click.UsageError("--microphone reads no FILE")
    if source is None and raw is not None:
        raise click.UsageError("--raw goes with - or a FILE")
    with ExitStack() as stack:
        blocks = _blocks(source, microphone, raw, stack)
        from seq2edge.runtime.speech.live import Listener, LiveOptions
        from seq2edge.runtime.speech.options import SpeechOptions

        model = load_model(bundle, execution)
        listener = Listener.of(
            model, SpeechOptions(language=language), options=LiveOptions(step=step)
        )
        _print_all(listener, blocks, as_json=as_json)


def _blocks(
    source: str | None, microphone: str | None, raw: str | None, stack: ExitStack
) -> Iterator[Samples]:
    """The sound, 16 kHz, as it comes."""
    from seq2edge.runtime.sound import arrivals, recording
    from seq2edge.runtime.sound.pcm import RawFormat

    if source is None:
        return arrivals.microphone(microphone)
    layout = RawFormat.parse(raw) if raw is not None else None
    sound = recording.open_sound(source, raw=layout, block=arrivals.BLOCK)
    return recording.resampled(stack.enter_context(sound))


def _print_all(listener: Listener, blocks: Iterator[Samples], *, as_json: bool) -> None:
    """Every change until the sound ends or somebody stops it; then how late words settled."""
    from seq2edge.runtime.sound.arrivals import Arrivals

    arrivals, delays = Arrivals(blocks), list[float]()
    line = _Line()
    try:
        while (samples := arrivals.take()) is not None:
            update = listener.hear(samples)
            if update is not None:
                _print(update, line, _delays(update, arrivals), delays, as_json=as_json)
    except KeyboardInterrupt:
        pass
    update = listener.finish()
    _print(update, line, _delays(update, arrivals), delays, as_json=as_json)
    if delays:
        delays.sort()
        median, most = delays[len(delays) // 2], delays[int(0.9 * (len(delays) - 1))]
        click.echo(
            f"listen: {len(delays):,} words, settled {median:.2f} s after they were said (median),"
            f" 90 % within {most:.2f} s",
            err=True,
        )


def _delays(update: Update, arrivals: Arrivals) -> list[float]:
    """Seconds from when each word had arrived until now."""
    now = time.monotonic()
    return [now - arrivals.time_of(word.end) for word in update.settled]


def _print(
    update: Update, line: _Line, new: list[float], delays: list[float], *, as_json: bool
) -> None:
    delays += new
    if not as_json:
        line.show(update)
        return
    if not update.settled and not update.partial and not update.pause:
        return
    words = [
        {
            "text": word.text,
            "start": round(word.start, 2),
            "end": round(word.end, 2),
            "delay": round(delay, 2),
        }
        for word, delay in zip(update.settled, new, strict=True)
    ]
    change = {"settled": words, "partial": update.partial, "pause": update.pause}
    click.echo(json.dumps(change, ensure_ascii=False))


class _Line:
    """Settled words, a line for what is said between pauses; on a terminal also the others."""

    def __init__(self) -> None:
        self._text = self._partial = ""

    def show(self, update: Update) -> None:
        """Write the settled words, and on a terminal what may change behind them."""
        if sys.stdout.isatty():
            click.echo("\r\x1b[K" if self._text or self._partial else "", nl=False)
            self._text += "".join(word.text for word in update.settled)
            self._partial = update.partial
            width = shutil.get_terminal_size().columns - 1
            shown = (self._text.strip() + self._partial).strip()
            if update.pause:
                show(shown, nl=bool(shown))
                self._text = self._partial = ""
            else:
                show(shown[-width:], nl=False)
            return
        for word in update.settled:
            show(word.text if self._text else word.text.lstrip(), nl=False)
            self._text += word.text
        if update.pause and self._text:
            click.echo()
            self._text = ""
        sys.stdout.flush()
