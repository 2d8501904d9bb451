"""The command `shortlist`."""

from __future__ import annotations

from pathlib import Path

import click

from seq2edge.commands.options import BUNDLE, PATH, THREADS, progress_bar, say_unsigned


@click.command()
@BUNDLE
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the new bundle.")
@click.option("--ids", "ids_file", type=PATH, help="The tokens: an id a line.")
@click.option(
    "--texts",
    type=PATH,
    help="Examples to learn the tokens from: a text, a tab and its reference a line, .jsonl, or a "
    "folder of *.wav and transcripts.tsv. All tokens of the references count (of a decoder-only "
    "model: of whole texts); special tokens, bytes and single characters stay too.",
)
@click.option("--most", type=int, help="With --texts, so many of the most frequent tokens.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@THREADS
def shortlist(
    bundle: Path,
    output: Path,
    *,
    ids_file: Path | None,
    texts: Path | None,
    most: int | None,
    overwrite: bool,
    threads: int | None,
) -> None:
    """Let a float BUNDLE generate the tokens of a list alone.

    Writes a second bundle whose decoder computes their logits alone, compared with those of the
    whole vocabulary, so that a step costs less. To quantize it, shorten first.
    """
    try:
        from seq2edge.quantize.shortlist import shorten_vocabulary
    except ImportError as error:
        raise click.ClickException(f"shortlist: {error}; install seq2edge[quantize,cpu]") from error
    from seq2edge.bundle import Bundle
    from seq2edge.bundle.shortlist import read_ids
    from seq2edge.evaluation.examples import read_examples

    if (ids_file is None) == (texts is None):
        raise click.UsageError("give --ids or --texts")
    if most is not None and texts is None:
        raise click.UsageError("--most is for --texts")
    opened = Bundle.open(bundle)
    signed = opened.signed
    examples = read_examples(texts, opened.manifest.task) if texts is not None else []
    with progress_bar("read") as show:
        report = shorten_vocabulary(
            bundle,
            output,
            ids=read_ids(ids_file) if ids_file is not None else (),
            examples=examples,
            most=most,
            threads=threads,
            overwrite=overwrite,
            progress=show,
        )
    vocab = report.source.manifest.dims.vocab
    click.echo(f"shortlist: {len(report.ids):,} of {vocab:,} tokens")
    for target, difference in report.difference.items():
        click.echo(f"{target}: their logits within {difference:.1e} of the whole bundle's")
    say_unsigned(signed=signed)
    before, after = report.source.size / 1e6, report.bundle.size / 1e6
    click.echo(f"{report.bundle.path} ({after:.1f} MB, before {before:.1f} MB)")
