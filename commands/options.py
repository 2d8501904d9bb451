"""What commands share: options, the records that hold them, a bar of progress."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import click

from seq2edge.errors import OptionError, foreign_errors
from seq2edge.files.storage import file_errors

if TYPE_CHECKING:
    from seq2edge.files.progress import Progress
    from seq2edge.runtime.model import Model
    from seq2edge.runtime.options import DecodeOptions

Command: TypeAlias = Callable[..., None]


class _Path(click.Path):
    """A path that one can be: with a NUL click's own ends in a traceback."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "\0" in os.fspath(value):
            raise OptionError(f"{value!r}: no path has a NUL")
        return super().convert(value, param, ctx)


PATH = _Path(path_type=Path)
BUNDLE = click.argument("bundle", type=PATH)
BATCH = click.option(
    "--batch", type=click.IntRange(1), default=8, show_default=True, help="Inputs at a time."
)
CUT = click.option(
    "--cut", is_flag=True, help="Cut long texts to what the encoder takes, and say how many."
)
THREADS = click.option(
    "--threads", type=click.IntRange(1), help="CPU threads; all cores by default."
)
SET = click.option(
    "-s", "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a recipe's value."
)
METRICS = (
    "chrf, bleu, rouge1, rouge2, rougeL, wer, cer, exact, exact-nostress, per (of symbols), "
    "per-nostress, start-error, end-error (of words, in ms), close (times within 0.2 s), accuracy, "
    "f1, pearson (of a single label) or perplexity"
)


DRAWING = ("seed", "temperature", "top_k", "top_p", "min_p", "typical_p")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """Whose bundle is accepted: signed by one of these keys, of this hash; anybody's without."""

    require_key: tuple[Path, ...]
    sha256: str | None

    def demands(self) -> dict[str, Any]:
        """Arguments of whatever opens a bundle."""
        return {"require_key": self.require_key or None, "sha256": self.sha256}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution(Origin):
    """Where a model runs: `auto` is the fastest device that works, None is all cores.

    And what is asked of its bundle before; `hashes`: that every file be what the manifest says.
    """

    device: str
    threads: int | None
    trust_engines: bool
    hashes: bool = False

    def demands(self) -> dict[str, Any]:
        """The same, and whether its engines may be opened."""
        return {**super().demands(), "trust_engines": self.trust_engines}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
    """Options of decoding on the command line; None leaves them to the bundle."""

    num_beams: int | None
    num_return_sequences: int | None
    max_new_tokens: int | None
    min_new_tokens: int | None
    length_penalty: float | None
    early_stopping: Literal["true", "false", "never"] | None
    no_repeat_ngram_size: int | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    do_sample: bool | None
    seed: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    stop_strings: tuple[str, ...]
    max_time: float | None
    json_schema: Path | None
    regex: str | None
    grammar: Path | None
    prompt_lookup_num_tokens: int | None
    num_assistant_tokens: int | None
    draft: Path | None
    capacity: int | None

    def changes(self) -> dict[str, Any]:
        """Fields of `DecodeOptions`; a number of new tokens sets aside a length of all.

        Options of drawing ask for it, unless it is refused.
        """
        changes = {k: v for k, v in dataclasses.asdict(self).items() if v not in (None, ())}
        changes.pop("draft", None)  # a bundle of its own, see `load_model`
        for name in ("json_schema", "grammar"):
            if name in changes:
                with foreign_errors(OptionError, changes[name]), file_errors(changes[name]):
                    changes[name] = changes[name].read_text(encoding="utf-8")
        if self.do_sample is None and any(name in changes for name in DRAWING):
            changes["do_sample"] = True
        if self.early_stopping is not None and self.early_stopping != "never":
            changes["early_stopping"] = self.early_stopping == "true"
        if self.max_new_tokens is not None:
            changes["max_length"] = None
        return changes

    def over(self, defaults: DecodeOptions) -> DecodeOptions:
        """The bundle's own options with these in their place."""
        return defaults.replace(**self.changes())


def in_record(record: type, name: str) -> Callable[[Command], Command]:
    """Hand a command the options that are fields of `record` as one argument, a record.

    Stands below the options themselves: `click` passes each by its name.
    """
    fields = {field.name for field in dataclasses.fields(record)}

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def call(**values: Any) -> None:
            options = record(**{field: values.pop(field) for field in fields & values.keys()})
            command(**values, **{name: options})

        return call

    return decorate


def _origin(command: Command) -> Command:
    """The options themselves; a record takes them below."""
    command = click.option(
        "--sha256", metavar="HASH", help="Only the bundle whose manifest has it; see inspect."
    )(command)
    return click.option(
        "--require-key",
        type=PATH,
        multiple=True,
        help="Only a bundle that this public key's owner signed; repeat for any of several.",
    )(command)


def origin_options(command: Command) -> Command:
    """Options of a command that reads a bundle and runs nothing, handed over as `origin`."""
    return _origin(in_record(Origin, "origin")(command))


def runtime_options(command: Command) -> Command:
    """Options of every command that runs a model, handed over as `execution`."""
    hashes = click.option("--hashes", is_flag=True, help="Check every file's hash before.")
    return _device(hashes(_origin(in_record(Execution, "execution")(command))))


def check_options(command: Command) -> Command:
    """The same for a command that checks every hash anyway."""
    return _device(_origin(in_record(Execution, "execution")(command)))


def _device(command: Command) -> Command:
    command = click.option(
        "--trust-engines",
        is_flag=True,
        help="Open TensorRT engines, which are code, though not built on this machine.",
    )(THREADS(command))
    return click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda", "tensorrt"]),
        default="auto",
        show_default=True,
        help="Where to run; auto takes the fastest that works.",
    )(command)


def decode_options(command: Command) -> Command:
    """Options of every command that decodes, handed over as `decoding`."""
    command = in_record(Decoding, "decoding")(command)
    for option in (
        click.option("--capacity", type=click.IntRange(1), help="Fixed cache size in tokens."),
        click.option("--draft", type=PATH, help="Bundle of a smaller model that guesses tokens."),
        click.option(
            "--draft-tokens", "num_assistant_tokens", type=click.IntRange(1), help="At a time."
        ),
        click.option(
            "--prompt-lookup",
            "prompt_lookup_num_tokens",
            type=click.IntRange(0),
            help="Guess so many tokens that the input goes on so; they are verified.",
        ),
        click.option("--grammar", type=PATH, help="Answer by a grammar in this file (Lark)."),
        click.option("--regex", help="Answer as this regular expression says."),
        click.option("--json-schema", type=PATH, help="Answer in JSON of the schema in this file."),
        click.option("--max-time", type=float, help="Seconds after which an answer ends."),
        click.option(
            "--stop", "stop_strings", multiple=True, metavar="TEXT", help="Ends an answer; repeat."
        ),
        click.option("--typical-p", type=float, help="Draw what surprises about as expected."),
        click.option("--min-p", type=float, help="Leave out what is less likely than this part."),
        click.option("--top-p", type=float, help="Draw from the likeliest with this probability."),
        click.option("--top-k", type=click.IntRange(0), help="Draw from so many; 0: from all."),
        click.option("--temperature", type=float, help="Below 1 draws likely tokens more often."),
        click.option("--seed", type=click.IntRange(0), help="Draw the same again."),
        click.option(
            "--sample/--no-sample", "do_sample", default=None, help="Draw tokens; as by --top-p ..."
        ),
        click.option("--presence-penalty", type=float, help="Taken from tokens already said."),
        click.option("--frequency-penalty", type=float, help="The same for each time."),
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


def languages(command: Command) -> Command:
    """Options of every command that a multilingual text model may run in."""
    for option in (
        click.option("--to", "target_language", help="Target language of a multilingual model."),
        click.option("--from", "source_language", help="Source language of a multilingual model."),
    ):
        command = option(command)
    return command


def load_model(
    bundle: Path, execution: Execution, *, cut: bool = False, draft: Path | None = None
) -> Model:
    """The bundle on a backend; which one and why goes to stderr."""
    from seq2edge.runtime.model import load

    model = load(
        bundle,
        device=execution.device,
        threads=execution.threads,
        hashes=execution.hashes,
        cut=cut,
        draft=draft,
        **execution.demands(),
    )
    click.echo(f"seq2edge: {model.reason}", err=True)
    return model


def say_cut(model: Model) -> None:
    """How many texts were cut, on stderr."""
    if count := model.tokenizer.shortened:
        click.echo(f"cut: {count:,} texts to the longest that the model takes", err=True)


def say_unsigned(*, signed: bool) -> None:
    """That what was made of a signed bundle is not signed, on stderr."""
    if signed:
        click.echo("not signed: the signature was the old bundle's; see pack --sign", err=True)


@contextmanager
def progress_bar(first: str) -> Iterator[Progress]:
    """A bar on stderr, and the function that moves it: what is done now, and the part of all."""
    with click.progressbar(length=1000, label=first, file=sys.stderr, width=30) as bar:

        def show(stage: str, part: float) -> None:
            bar.label = f"{stage:<16}"
            bar.update(max(0, int(1000 * part) - bar.pos))

        yield show
