"""Recordings: `transcribe`."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from seq2edge.commands.options import (
    BUNDLE,
    PATH,
    Command,
    Decoding,
    Execution,
    decode_options,
    in_record,
    load_model,
    runtime_options,
)
from seq2edge.commands.output import LOGPROBS, answer, check_logprobs
from seq2edge.commands.terminal import show
from seq2edge.errors import BackendError, InputError, OptionError
from seq2edge.files.storage import file_errors, replacing
from seq2edge.runtime.sound.suffixes import SOUNDS
from seq2edge.runtime.speech.transcript import FORMATS

if TYPE_CHECKING:
    from seq2edge.runtime.model import Model
    from seq2edge.runtime.options import DecodeOptions
    from seq2edge.runtime.sound.pcm import RawFormat
    from seq2edge.runtime.sound.resampling import Samples
    from seq2edge.runtime.speech.options import SpeechOptions
    from seq2edge.runtime.speech.transcriber import Transcriber
    from seq2edge.runtime.speech.transcript import Transcript
    from seq2edge.runtime.speech.writers import Layout

STANDARD_INPUT: Final = "-"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speech:
    """Options of `SpeechOptions` on the command line; None leaves them as they are."""

    language: str | None
    task: Literal["transcribe", "translate"]
    timestamps: bool | None
    words: bool
    mode: Literal["exact", "batched"]
    batch: int | None
    initial_prompt: str | None
    hotwords: str | None
    prefix: str | None
    condition_on_previous: bool | None
    skip_silence: bool | None
    temperatures: str | None
    best_of: int | None
    compression_ratio_threshold: float | None
    logprob_threshold: float | None
    no_speech_threshold: float | None

    def options(self) -> SpeechOptions:
        """The record. Raises OptionError for what cannot be."""
        from seq2edge.runtime.speech.options import SpeechOptions

        values: dict[str, Any] = {
            name: value for name, value in dataclasses.asdict(self).items() if value is not None
        }
        if self.temperatures is not None:
            try:
                values["temperatures"] = tuple(map(float, self.temperatures.split(",")))
            except ValueError:
                raise OptionError(
                    f"temperatures: {self.temperatures!r:.60}, needs numbers with commas"
                ) from None
        return SpeechOptions(**values)


def speech_options(command: Command) -> Command:
    """Options of every command that transcribes, handed over as `speech`."""
    command = in_record(Speech, "speech")(command)
    for option in (
        click.option("--no-speech-threshold", type=float, help="Above it doubtful text is none."),
        click.option("--logprob-threshold", type=float, help="Below it text is doubtful."),
        click.option(
            "--compression-ratio-threshold", type=float, help="Above it text repeats itself."
        ),
        click.option(
            "--best-of",
            type=click.IntRange(1),
            help="Texts drawn at temperatures above 0, the likeliest is kept; 5.",
        ),
        click.option(
            "--temperatures",
            metavar="T,T...",
            help="Tried one after the other while text is doubtful; 0,0.2,0.4,0.6,0.8,1.",
        ),
        click.option("--skip-silence/--no-skip-silence", default=None, help="By its sound alone."),
        click.option(
            "--condition-on-previous/--no-condition-on-previous",
            default=None,
            help="Read on from the text before.",
        ),
        click.option("--prefix", metavar="TEXT", help="What the recording begins with."),
        click.option("--hotwords", metavar="TEXT", help="Words that are likely everywhere."),
        click.option("--initial-prompt", metavar="TEXT", help="Said before: names, a style."),
        click.option("--batch", type=click.IntRange(1), help="Windows at a time; 8."),
        click.option(
            "--mode",
            type=click.Choice(["exact", "batched"]),
            default="exact",
            show_default=True,
            help="One window after the other, or what is speech in parts, at once: faster.",
        ),
        click.option("--words", is_flag=True, help="Times of words too; see export --alignments."),
        click.option("--timestamps/--no-timestamps", default=None, help="Times of segments."),
        click.option(
            "--task",
            type=click.Choice(["transcribe", "translate"]),
            default="transcribe",
            show_default=True,
            help="Keep the language or translate to English.",
        ),
        click.option("--language", help="A code or name; auto, the default, listens first."),
    ):
        command = option(command)
    return command


@click.command()
@BUNDLE
@click.argument("recordings", nargs=-1, required=True, metavar="FILE|FOLDER|-...", type=PATH)
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(FORMATS),
    help="What is written; text by default. Several with --output.",
)
@click.option("-o", "--output", type=PATH, help="A folder: a file for each recording and format.")
@click.option("--line-width", type=click.IntRange(1), default=42, help="Of subtitles; 42.")
@click.option("--lines", type=click.IntRange(1), default=2, help="Of a subtitle at most; 2.")
@click.option("--highlight", is_flag=True, help="With --words and vtt: mark what is said now.")
@click.option("--raw", metavar="FORMAT", help="Of samples without a header: s16le,16000,1.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Of clips of up to 30 s: every result with ids and score, one JSON object a clip.",
)
@LOGPROBS
@speech_options
@decode_options
@runtime_options
def transcribe(
    bundle: Path,
    recordings: tuple[Path, ...],
    *,
    formats: tuple[str, ...],
    output: Path | None,
    line_width: int,
    lines: int,
    highlight: bool,
    raw: str | None,
    as_json: bool,
    logprobs: int | None,
    speech: Speech,
    decoding: Decoding,
    execution: Execution,
) -> None:
    """Transcribe recordings of any length with BUNDLE.

    A FOLDER stands for the sounds and videos in it, - for standard input. One recording is printed
    segment by segment as they are found, of several each is a line. What cannot be read is named
    on stderr, the others go on, and the command then ends with exit code 1.
    """
    from seq2edge.runtime.sound.pcm import RawFormat
    from seq2edge.runtime.speech.transcriber import Transcriber
    from seq2edge.runtime.speech.writers import Layout

    check_logprobs(logprobs, as_json=as_json)
    layout = Layout(width=line_width, lines=lines, highlight=highlight)
    chosen = tuple(dict.fromkeys(formats)) or ("text",)
    if as_json and (formats or output or speech.words):
        raise click.UsageError("--json goes without --format, --output and --words")
    if output is None and len(chosen) > 1:
        raise click.UsageError("--format: several need --output, a folder")
    if highlight and not (speech.words and "vtt" in chosen):
        raise click.UsageError("--highlight goes with --words and --format vtt")
    options = speech.options()
    files = _files(recordings)
    if output is None and len(files) > 1 and chosen[0] in ("srt", "vtt", "tsv"):
        raise click.UsageError(f"--format {chosen[0]}: several recordings need --output, a folder")
    model = load_model(bundle, execution, draft=decoding.draft)
    search = decoding.over(model.options).replace(logprobs=logprobs)
    transcriber = Transcriber(model, options, search)
    sources = Sources(files, RawFormat.parse(raw) if raw is not None else None)
    if as_json:
        _write_results(sources, model, transcriber, search)
    else:
        with Meter() as meter:
            out = _Writer(output, chosen, layout, meter, files, task=options.task)
            out.write_all(sources, transcriber)
    if sources.failed:
        raise SystemExit(1)


def _files(recordings: Sequence[Path]) -> list[Path]:
    """The recordings, those of folders in the order of their names. Raises InputError for none."""
    files: list[Path] = []
    for path in recordings:
        if not path.is_dir():
            files.append(path)
            continue
        with file_errors(path, InputError):
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SOUNDS)
        if not inside:
            raise InputError(f"{path}: holds no recording ({', '.join(SOUNDS)})")
        files += inside
    return files


class Sources:
    """The samples of recordings; those that cannot be read are named on stderr and left out."""

    def __init__(self, files: Sequence[Path], raw: RawFormat | None = None) -> None:
        self.files, self._raw = files, raw
        self.names: list[str] = []  # of those that were read, in their order
        self.seconds: list[float] = []
        self.failed = 0

    def __iter__(self) -> Iterator[Samples]:
        from seq2edge.runtime.sound.log_mel import SAMPLING_RATE
        from seq2edge.runtime.sound.recording import read_samples

        for file in self.files:
            try:
                samples = read_samples(file, raw=self._raw)
            except (InputError, BackendError) as error:
                self.failed += 1
                show(f"Error: {error}", err=True)
                continue
            self.names.append(str(file))
            self.seconds.append(len(samples) / SAMPLING_RATE)
            yield samples


def _write_results(
    sources: Sources, model: Model, transcriber: Transcriber, search: DecodeOptions
) -> None:
    """One JSON object a clip with all results of its one window, as other commands have it."""
    known, options = transcriber.tokens.languages, transcriber.options
    for samples in sources:
        language: str | None = transcriber.tokens.language(options)
        if known and language is None:
            language = next(iter(transcriber.detect_language(samples)))
        try:
            (texts,) = model.transcribe([samples], search, language=language, task=options.task)
        except InputError as error:
            sources.failed += 1
            show(f"Error: {sources.names[-1]}: {error}", err=True)
            continue
        show(json.dumps(answer(sources.names[-1], texts), ensure_ascii=False))


class _Writer:
    """Writes transcripts to standard output, or to a folder in several formats."""

    def __init__(
        self,
        folder: Path | None,
        formats: Sequence[str],
        layout: Layout,
        meter: Meter,
        files: Sequence[Path],
        *,
        task: str,
    ) -> None:
        """Raises InputError where two recordings would have one file."""
        self._folder, self._formats, self._layout = folder, formats, layout
        self._meter, self._several, self._task = meter, len(files) > 1, task
        again = [name for name, count in Counter(map(_stem, map(str, files))).items() if count > 1]
        if folder is not None and again:
            raise InputError(f"{folder}: several recordings are called {again[0]}, rename them")

    def write_all(self, sources: Sources, transcriber: Transcriber) -> None:
        """Every recording: one as its segments are found, several as each is done."""
        if not self._several:
            for samples in sources:
                self._write_one(sources.names[-1], transcriber, samples)
            return
        done = 0.0
        for place, transcript in enumerate(transcriber.transcribe_each(sources)):
            done += transcript.duration
            self._meter.move(sources.names[place], done, sum(sources.seconds))
            self._write(sources.names[place], transcript)

    def _write_one(self, name: str, transcriber: Transcriber, samples: Samples) -> None:
        from seq2edge.runtime.speech.writers import STREAMED

        def move(seconds: float, duration: float) -> None:
            self._meter.move(name, seconds, duration)

        stream = transcriber.stream(samples, progress=move)
        if self._folder is None and self._formats[0] in STREAMED:
            for piece in STREAMED[self._formats[0]](stream, self._layout):
                self._print(piece.removesuffix("\n"))
        else:
            self._write(name, stream.transcript)

    def _write(self, name: str, transcript: Transcript) -> None:
        from seq2edge.runtime.speech.writers import SUFFIXES, as_json, write_transcript

        if self._folder is None and self._formats[0] == "json":
            values = {"input": name, **as_json(transcript)}
            self._print(json.dumps(values, ensure_ascii=False))
            return
        for form in self._formats:
            text = write_transcript(transcript, form, self._layout, task=self._task)
            if self._folder is None:
                self._print(" ".join(text.split("\n")).strip() if form == "text" else text.strip())
                continue
            file = self._folder / f"{_stem(name)}{SUFFIXES[form]}"
            with file_errors(file, InputError):
                self._folder.mkdir(parents=True, exist_ok=True)
                with replacing(file) as partial:
                    partial.write_text(text, encoding="utf-8")

    def _print(self, text: str) -> None:
        self._meter.clear()
        show(text)
        sys.stdout.flush()


def _stem(name: str) -> str:
    return "standard-input" if name == STANDARD_INPUT else Path(name).stem


class Meter:
    """A line on stderr: seconds of sound that are done, and how many times faster than it plays.

    On terminals alone, and not between the lines that are printed there.
    """

    def __init__(self) -> None:
        self._shows = sys.stderr.isatty()
        self._begin = time.monotonic()
        self._width = 0

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._width:
            click.echo("", err=True)

    def move(self, name: str, seconds: float, duration: float) -> None:
        """Show what is done now."""
        if not self._shows:
            return
        speed = seconds / max(1e-3, time.monotonic() - self._begin)
        filled = round(20 * min(1.0, seconds / duration)) if duration else 20
        line = (
            f"{Path(name).name:.24}  [{'#' * filled}{'-' * (20 - filled)}]  "
            f"{seconds:.0f} of {duration:.0f} s  {speed:.1f}x"
        )
        self.clear()
        show(line, nl=False, err=True)
        self._width = len(line)

    def clear(self) -> None:
        """Take the line away."""
        if self._width:
            click.echo("\r" + " " * self._width + "\r", nl=False, err=True)
            self._width = 0
