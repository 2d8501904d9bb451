"""The command `quantize`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from seq2edge.commands.options import BUNDLE, METRICS, PATH, THREADS, progress_bar, say_unsigned

if TYPE_CHECKING:
    from seq2edge.quantize.recipes import RangeMethod


@click.command()
@BUNDLE
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the new bundle.")
@click.option(
    "-r",
    "--recipe",
    required=True,
    help="int8-weight, int4-weight, int8-dynamic, int8-static, fp16 or bf16; or auto, which finds "
    "the fastest that stays within --budget here.",
)
@click.option(
    "--target",
    help="What the graphs are for: onnxruntime or tensorrt (an engine is built of those later). "
    "By default the first that the recipe is made for.",
)
@click.option(
    "--calibration",
    type=PATH,
    help="Examples that ranges are found on and weights are rounded for: a text a line, or a "
    "folder of *.wav.",
)
@click.option(
    "--evaluation",
    type=PATH,
    help="Examples that the verdict is measured on, best with references: a text, a tab and its "
    "reference a line, or a folder of *.wav and transcripts.tsv. Random input without.",
)
@click.option("--metric", help=f"{METRICS}; by default the task's first.")
@click.option(
    "--budget",
    help="With auto, what may be lost on --evaluation: bleu-0.3, wer+0.5, perplexity+2%, "
    "agreement-5 (percent of the float model's answers).",
)
@click.option("--report", type=PATH, help="With auto, the HTML report; by default OUTPUT.html.")
@click.option(
    "--ranges",
    default="min-max",
    help="How int8-static finds ranges: min-max, percentile or entropy.  [default: min-max]",
)
@click.option(
    "--smoothing",
    type=float,
    default=0.0,
    help="Share of inputs' outliers that int8-dynamic and int8-static move to the weights "
    "(SmoothQuant); 0.5 is usual.  [default: 0]",
)
@click.option(
    "--int8-cache", is_flag=True, help="Keep the decoder's own keys and values in 8 bits."
)
@click.option(
    "--int8-memory", is_flag=True, help="Keep those in 8 bits that it reads of the encoder."
)
@click.option("--language", help="Of the clips, for a multilingual speech model.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@click.option("--json", "as_json", is_flag=True, help="The verdict as one JSON object.")
@THREADS
def quantize(
    bundle: Path,
    output: Path,
    *,
    recipe: str,
    target: str | None,
    calibration: Path | None,
    evaluation: Path | None,
    metric: str | None,
    budget: str | None,
    report: Path | None,
    ranges: RangeMethod,
    smoothing: float,
    int8_cache: bool,
    int8_memory: bool,
    language: str | None,
    overwrite: bool,
    as_json: bool,
    threads: int | None,
) -> None:
    """Quantize a float BUNDLE and judge the result.

    Writes a second bundle, then runs both on this machine: size, memory, load time, speed, how many
    of the float model's answers are kept, and the task's metric with what chance would change.
    """
    try:
        from seq2edge.quantize.pipeline import QuantizeOptions, run
    except ImportError as error:
        raise click.ClickException(f"quantize: {error}; install seq2edge[quantize,cpu]") from error
    from seq2edge.bundle import Bundle
    from seq2edge.evaluation.examples import read_examples

    if metric is not None and evaluation is None:
        raise click.UsageError("--metric is measured on --evaluation, which is missing")
    _check_recipe(recipe, target=target, budget=budget, report=report)
    options = QuantizeOptions(
        recipe=recipe,
        target=target,
        budget=budget,
        metric=metric,
        report=report,
        ranges=ranges,
        smoothing=smoothing,
        int8_cache=int8_cache,
        int8_memory=int8_memory,
        language=language,
        threads=threads,
        overwrite=overwrite,
    )
    opened = Bundle.open(bundle)
    task, signed = opened.manifest.task, opened.signed
    examples = [
        read_examples(path, task) if path is not None else [] for path in (calibration, evaluation)
    ]
    with progress_bar("read") as show:
        quantized = run(
            bundle,
            output,
            options,
            calibration=examples[0],
            evaluation=examples[1],
            progress=show,
        )
    if quantized.search is not None:
        for line in quantized.search.table():
            click.echo(line, err=True)
        click.echo(f"report: {quantized.page}", err=True)
    for name in quantized.report.kept:
        click.echo(f"kept in float: {name}", err=True)
    say_unsigned(signed=signed)
    if as_json:
        click.echo(json.dumps(quantized.values(), ensure_ascii=False))
        return
    for line in quantized.verdict.table():
        click.echo(line)
    click.echo(quantized.verdict.sentence)
    result = quantized.report.bundle
    click.echo(f"{result.path} ({result.size / 1e6:.1f} MB)")


def _check_recipe(
    recipe: str, *, target: str | None, budget: str | None, report: Path | None
) -> None:
    """Refuse options that the recipe, or auto, would not heed."""
    if recipe != "auto":
        for name, value in (("budget", budget), ("report", report)):
            if value is not None:
                raise click.UsageError(f"--{name} is for --recipe auto")
        return
    if budget is None:
        raise click.UsageError("auto needs a --budget, such as wer+0.5")
    if target not in (None, "onnxruntime"):
        raise click.UsageError(
            f"auto measures speed here, where nothing for {target} runs; name a recipe"
        )
