"""The command line: parse, call one library function, print.

Results go to stdout, progress and remarks to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage.
Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from seq2edge import __version__
from seq2edge.commands.build import build, targets
from seq2edge.commands.canary import canary
from seq2edge.commands.distil import distil
from seq2edge.commands.evaluate import audit, evaluate
from seq2edge.commands.options import (
    BATCH,
    BUNDLE,
    CUT,
    FILE,
    FOLDER,
    JSON,
    TEXTS,
    batches,
    decode_options,
    load_model,
    merge,
    progress_bar,
    read_inputs,
    runtime_options,
    say_cut,
)
from seq2edge.commands.quantize import quantize
from seq2edge.commands.sweep import sweep
from seq2edge.commands.train import train
from seq2edge.errors import Seq2EdgeError

if TYPE_CHECKING:
    from seq2edge.runtime.sequences import GeneratedText


class _Commands(click.Group):
    """Turns the library's errors into one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Seq2EdgeError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="seq2edge")
def main() -> None:
    """From a Transformer checkpoint to cached decoding on an edge device."""


main.add_command(evaluate)
main.add_command(audit)
main.add_command(quantize)
main.add_command(targets)
main.add_command(build)
main.add_command(train)
main.add_command(sweep)
main.add_command(canary)
main.add_command(distil)


def _print_texts(source: str, texts: list[GeneratedText], *, as_json: bool) -> None:
    if as_json:
        results = [
            {"text": t.text, "ids": list(t.ids), "score": t.score, "finished": t.finished}
            for t in texts
        ]
        click.echo(json.dumps({"input": source, "results": results}, ensure_ascii=False))
        return
    for text in texts:
        click.echo(text.text)


@main.command()
@click.argument("checkpoint", type=FOLDER)
@click.option("-o", "--output", type=FOLDER, required=True, help="Folder of the new bundle.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
def export(checkpoint: Path, output: Path, *, overwrite: bool) -> None:
    """Export CHECKPOINT to a proven bundle.

    Every graph is compared with the model before anything is written.

    CHECKPOINT is a Hugging Face folder, a CTranslate2 Whisper folder or a GGUF Llama file.
    """
    try:
        from seq2edge.export.pipeline import export_checkpoint
    except ImportError as error:
        raise click.ClickException(f"export: {error}; install seq2edge[export,cpu]") from error
    with progress_bar("load") as show:
        report = export_checkpoint(checkpoint, output, overwrite=overwrite, progress=show)
    for name, value in report.ignored_settings.items():
        click.echo(f"not applied: generation setting {name}={json.dumps(value)}", err=True)
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    for name in report.unused_tensors:
        click.echo(f"not used by this task: tensor {name}", err=True)
    for target, found in report.parity.items():
        tokens = f", {found.tokens_equal}/{found.tokens_compared} tokens equal"
        tokens = tokens if found.tokens_compared else ""
        click.echo(f"parity: {target} logits within {found.max_absolute:.1e}{tokens}", err=True)
    click.echo(f"{report.bundle.path} ({report.bundle.size / 1e6:.1f} MB)")


@main.command()
@BUNDLE
@TEXTS
@FILE
@JSON
@BATCH
@CUT
@click.option("--from", "source_language", help="Source language of a multilingual model.")
@click.option("--to", "target_language", help="Target language of a multilingual model.")
@click.option("--chat", is_flag=True, help="Take each text as a user's message.")
@decode_options
@runtime_options
def run(
    bundle: Path,
    texts: tuple[str, ...],
    file: TextIO | None,
    *,
    as_json: bool,
    batch: int,
    source_language: str | None,
    target_language: str | None,
    chat: bool,
    cut: bool,
    device: str,
    threads: int | None,
    **decoding: Any,
) -> None:
    """Generate from each TEXT with BUNDLE.

    Translate, summarize, continue or answer, as the model was made to. A line of input gives a
    line of output, a blank one a blank one.
    """
    if chat and (source_language or target_language):
        raise click.UsageError("--chat takes neither --from nor --to")
    inputs = read_inputs(texts, file)
    model = load_model(bundle, device, threads, cut=cut)
    options = merge(model.options, decoding)

    def generate(group: list[str]) -> list[list[GeneratedText]]:
        if chat:
            return [model.chat([{"role": "user", "content": text}], options) for text in group]
        return model.generate(
            group, options, source_language=source_language, target_language=target_language
        )

    for group in batches(inputs, batch):
        results = iter(generate([text for text in group if text.strip()]))
        for source in group:
            # A blank line gives blank lines, so that line n still answers line n.
            found = next(results) if source.strip() else []
            _print_texts(source, found, as_json=as_json)
            if not found and not as_json:
                click.echo("\n" * (options.num_return_sequences - 1))
    if cut:
        say_cut(model)


@main.command()
@BUNDLE
@click.argument("clips", nargs=-1, required=True, type=FOLDER)
@JSON
@click.option("--language", help="Spoken language, where the model knows several.")
@click.option(
    "--task",
    type=click.Choice(["transcribe", "translate"]),
    default="transcribe",
    show_default=True,
    help="Keep the language or translate to English.",
)
@decode_options
@runtime_options
def transcribe(
    bundle: Path,
    clips: tuple[Path, ...],
    *,
    as_json: bool,
    language: str | None,
    task: str,
    device: str,
    threads: int | None,
    **decoding: Any,
) -> None:
    """Transcribe WAVE files (CLIPS) of up to 30 seconds with BUNDLE."""
    model = load_model(bundle, device, threads)
    options = merge(model.options, decoding)
    for clip in clips:
        found = model.transcribe([clip], options, language=language, task=task)[0]
        _print_texts(str(clip), found, as_json=as_json)


@main.command()
@BUNDLE
@TEXTS
@FILE
@JSON
@BATCH
@CUT
@runtime_options
def classify(
    bundle: Path,
    texts: tuple[str, ...],
    file: TextIO | None,
    *,
    as_json: bool,
    batch: int,
    cut: bool,
    device: str,
    threads: int | None,
) -> None:
    """Print the label of each TEXT."""
    inputs = read_inputs(texts, file)
    model = load_model(bundle, device, threads, cut=cut)
    for group in batches(inputs, batch):
        for text, found in zip(group, model.classify(group), strict=True):
            if as_json:
                values = {"input": text, "label": found.label, "scores": found.scores}
                click.echo(json.dumps(values, ensure_ascii=False))
            else:
                click.echo(f"{found.label}\t{found.scores[found.label]:.4f}")
    if cut:
        say_cut(model)


@main.command()
@BUNDLE
@TEXTS
@FILE
@BATCH
@CUT
@runtime_options
def embed(
    bundle: Path,
    texts: tuple[str, ...],
    file: TextIO | None,
    *,
    batch: int,
    cut: bool,
    device: str,
    threads: int | None,
) -> None:
    """Print the embedding of each TEXT as JSON."""
    inputs = read_inputs(texts, file)
    model = load_model(bundle, device, threads, cut=cut)
    for group in batches(inputs, batch):
        for text, vector in zip(group, model.embed(group), strict=True):
            values = {"input": text, "embedding": [float(x) for x in vector]}
            click.echo(json.dumps(values, ensure_ascii=False))
    if cut:
        say_cut(model)


@main.command()
@BUNDLE
@click.option("--no-run", is_flag=True, help="Check the files alone.")
@runtime_options
def verify(bundle: Path, *, no_run: bool, device: str, threads: int | None) -> None:
    """Check BUNDLE: every file, and every graph.

    Files are compared with their recorded sizes and hashes; every graph and engine that runs here
    replays the tokens recorded at export, and what does not run says why.
    """
    from seq2edge.bundle import Bundle

    opened = Bundle.open(bundle, hashes=True)
    click.echo(f"files: {len(opened.manifest.files)} with the recorded sizes and hashes")
    if no_run:
        return
    from seq2edge.runtime.verification import verify_graphs

    failed = False
    for target, outcome in verify_graphs(opened, device=device, threads=threads):
        click.echo(f"{target}: {outcome.summary}")
        failed |= not outcome.passed
    if failed:
        raise click.ClickException(f"{bundle}: does not give what was recorded at export")


@main.command()
@BUNDLE
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
def inspect(bundle: Path, *, as_json: bool) -> None:
    """Print what BUNDLE is, from its manifest."""
    from seq2edge.bundle import Bundle, describe, summarize

    values = describe(Bundle.open(bundle))
    if as_json:
        click.echo(json.dumps(values, indent=2, ensure_ascii=False))
        return
    for line in summarize(values):
        click.echo(line)


@main.command()
@BUNDLE
@click.argument("file", type=FOLDER)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def pack(bundle: Path, file: Path, *, overwrite: bool) -> None:
    """Make one FILE of BUNDLE, to copy to a device."""
    from seq2edge.bundle import archive

    click.echo(archive.pack(bundle, file, overwrite=overwrite))


@main.command()
@click.argument("file", type=FOLDER)
@click.argument("bundle", type=FOLDER)
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
def unpack(file: Path, bundle: Path, *, overwrite: bool) -> None:
    """Make the folder BUNDLE of a packed FILE, checking every hash."""
    from seq2edge.bundle import archive

    click.echo(archive.unpack(file, bundle, overwrite=overwrite).path)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def doctor(*, as_json: bool) -> None:
    """Say what this machine has, and what to install."""
    from seq2edge.runtime.diagnosis import diagnose

    found = diagnose()
    if as_json:
        click.echo(json.dumps([vars(line) for line in found], indent=2))
        return
    for line in found:
        click.echo(f"{'ok' if line.works else '--'}  {line.subject:<22}{line.detail}")


if __name__ == "__main__":
    main()
