"""What commands share: arguments, options, how those meet a bundle's defaults, lines of text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from seq2edge.files.progress import Progress
    from seq2edge.runtime.model import Model
    from seq2edge.runtime.options import DecodeOptions

FOLDER = click.Path(path_type=Path)
BUNDLE = click.argument("bundle", type=FOLDER)
FILE = click.option(
    "-f", "--file", type=click.File("r", encoding="utf-8"), help="One input per line."
)
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object per input.")
BATCH = click.option(
    "--batch", type=click.IntRange(1), default=8, show_default=True, help="Inputs at a time."
)
TEXTS = click.argument("texts", nargs=-1, metavar="[TEXT|-]...")
CUT = click.option(
    "--cut", is_flag=True, help="Cut long texts to what the encoder takes, and say how many."
)
THREADS = click.option(
    "--threads", type=click.IntRange(1), help="CPU threads; all cores by default."
)
METRICS = (
    "chrf, bleu, rouge1, rouge2, rougeL, wer, cer, exact, exact-nostress, per (of symbols), "
    "per-nostress, accuracy, f1 or perplexity"
)


def runtime_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of every command that runs a model."""
    command = THREADS(command)
    return click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda", "tensorrt"]),
        default="auto",
        show_default=True,
        help="Where to run; auto takes the fastest that works.",
    )(command)


def decode_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of every command that decodes; unset ones come from the checkpoint."""
    for option in (
        click.option("--capacity", type=click.IntRange(1), help="Fixed cache size in tokens."),
        click.option("--repetition-penalty", type=float, help="Above 1 discourages repeats."),
        click.option("--no-repeat-ngram-size", type=click.IntRange(0), help="0 allows repeats."),
        click.option(
            "--early-stopping",
            type=click.Choice(["true", "false", "never"]),
            help="When beam search may stop.",
        ),
        click.option("--length-penalty", type=float, help="Above 0 favours longer results."),
        click.option("--min-new-tokens", type=click.IntRange(0), help="Least tokens to generate."),
        click.option("--max-new-tokens", type=click.IntRange(1), help="Most tokens to generate."),
        click.option(
            "-n", "--num-return-sequences", type=click.IntRange(1), help="Results per input."
        ),
        click.option("-b", "--num-beams", type=click.IntRange(1), help="1 is greedy search."),
    ):
        command = option(command)
    return command


def merge(defaults: DecodeOptions, given: dict[str, Any]) -> DecodeOptions:
    """The bundle's defaults with what was given; a number of new tokens sets aside a length."""
    changes = {key: value for key, value in given.items() if value is not None}
    if "early_stopping" in changes:
        words = {"true": True, "false": False}
        changes["early_stopping"] = words.get(changes["early_stopping"], "never")
    if "max_new_tokens" in changes:
        changes.setdefault("max_length", None)
    return defaults.replace(**changes)


def read_inputs(texts: tuple[str, ...], file: TextIO | None) -> Iterator[str]:
    """The arguments, `-` for the lines of stdin, then the lines of the file."""
    if not texts and file is None:
        raise click.UsageError("give a text, - for standard input, or --file")
    return _read(texts, file)


def _read(texts: tuple[str, ...], file: TextIO | None) -> Iterator[str]:
    for text in texts:
        if text == "-":
            yield from lines_of(sys.stdin)
        else:
            yield text
    if file is not None:
        yield from lines_of(file)


def load_model(bundle: Path, device: str, threads: int | None, *, cut: bool = False) -> Model:
    """The bundle on a backend; which one and why goes to stderr."""
    import seq2edge

    model = seq2edge.load(bundle, device=device, threads=threads, cut=cut)
    click.echo(f"seq2edge: {model.reason}", err=True)
    return model


def say_cut(model: Model) -> None:
    """How many texts were cut, on stderr."""
    if count := model.tokenizer.shortened:
        click.echo(f"cut: {count:,} texts to the longest that the model takes", err=True)


@contextmanager
def progress_bar(first: str) -> Iterator[Progress]:
    """A bar on stderr, and the function that moves it: what is done now, and the part of all."""
    with click.progressbar(length=1000, label=first, file=sys.stderr, width=30) as bar:

        def show(stage: str, part: float) -> None:
            bar.label = f"{stage:<16}"
            bar.update(max(0, int(1000 * part) - bar.pos))

        yield show


def lines_of(stream: TextIO) -> Iterator[str]:
    """Every line, blank ones too, without its end."""
    for line in stream:
        yield line.rstrip("\r\n")


def batches(items: Iterable[str], size: int) -> Iterator[list[str]]:
    """The items in lists of `size`; the last may be shorter."""
    batch: list[str] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
