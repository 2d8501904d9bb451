"""The command `quantize`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from seq2edge.cli_options import BUNDLE, FOLDER, THREADS, progress_bar


@click.command()
@BUNDLE
@click.option("-o", "--output", type=FOLDER, required=True, help="Folder of the new bundle.")
@click.option("-r", "--recipe", required=True, help="int8-weight or int4-weight.")
@click.option(
    "--calibration",
    type=FOLDER,
    help="Examples that weights are rounded for: a text a line, or a folder of *.wav.",
)
@click.option(
    "--evaluation",
    type=FOLDER,
    help="Examples that the verdict is measured on, best with references: a text, a tab and its "
    "reference a line, or a folder of *.wav and transcripts.tsv. Random input without.",
)
@click.option(
    "--metric", help="chrf, bleu, wer, cer, accuracy or perplexity; by default the task's."
)
@click.option("--language", help="Of the clips, for a multilingual speech model.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@click.option("--json", "as_json", is_flag=True, help="The verdict as one JSON object.")
@THREADS
def quantize(
    bundle: Path,
    output: Path,
    recipe: str,
    calibration: Path | None,
    evaluation: Path | None,
    metric: str | None,
    language: str | None,
    *,
    overwrite: bool,
    as_json: bool,
    threads: int | None,
) -> None:
    """Quantize a float BUNDLE and judge the result.

    Writes a second bundle, then runs both on this machine: size, memory, load time, speed, how many
    of the float model's answers are kept, and the task's metric with what chance would change.
    """
    try:
        from seq2edge.quantize.pipeline import quantize_bundle
    except ImportError as error:
        raise click.ClickException(f"quantize: {error}; install seq2edge[quantize,cpu]") from error
    from seq2edge.bundle import Bundle
    from seq2edge.quantize.examples import read_examples
    from seq2edge.quantize.metrics import find_metric
    from seq2edge.quantize.verdict import judge

    task = Bundle.open(bundle).manifest.task
    seen, measured = (
        read_examples(path, task) if path is not None else [] for path in (calibration, evaluation)
    )
    if metric is not None:
        if evaluation is None:
            raise click.UsageError("--metric is measured on --evaluation, which is missing")
        find_metric(metric)
    with progress_bar("read") as show:
        report = quantize_bundle(
            bundle,
            output,
            recipe,
            calibration=seen,
            language=language,
            threads=threads,
            overwrite=overwrite,
            progress=show,
        )
    for name in report.kept:
        click.echo(f"kept in float32: {name}", err=True)
    verdict = judge(
        report.source,
        report.bundle,
        examples=measured,
        metric=metric,
        language=language,
        threads=threads,
    )
    if as_json:
        values = {**dataclasses.asdict(verdict), "bundle": str(report.bundle.path)}
        click.echo(json.dumps(values, ensure_ascii=False))
        return
    for line in verdict.table():
        click.echo(line)
    click.echo(verdict.sentence)
    click.echo(f"{report.bundle.path} ({report.bundle.size / 1e6:.1f} MB)")
