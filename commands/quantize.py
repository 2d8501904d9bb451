"""The command `quantize`."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seq2edge.commands.options import BUNDLE, METRICS, PATH, THREADS, progress_bar

if TYPE_CHECKING:
    from seq2edge.evaluation.examples import Example
    from seq2edge.quantize.pipeline import QuantizationReport
    from seq2edge.quantize.verdict import Verdict


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
@click.option("--int8-cache", is_flag=True, help="Keep the decoder's keys and values in 8 bits.")
@click.option("--language", help="Of the clips, for a multilingual speech model.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@click.option("--json", "as_json", is_flag=True, help="The verdict as one JSON object.")
@THREADS
def quantize(bundle: Path, output: Path, *, as_json: bool, **given: Any) -> None:
    """Quantize a float BUNDLE and judge the result.

    Writes a second bundle, then runs both on this machine: size, memory, load time, speed, how many
    of the float model's answers are kept, and the task's metric with what chance would change.
    """
    try:
        import seq2edge.quantize.pipeline  # noqa: F401 - everything below needs it
    except ImportError as error:
        raise click.ClickException(f"quantize: {error}; install seq2edge[quantize,cpu]") from error
    from seq2edge.bundle import Bundle
    from seq2edge.evaluation.examples import read_examples

    _check(given)
    task = Bundle.open(bundle).manifest.task
    calibration, evaluation = (
        read_examples(given[name], task) if given[name] is not None else []
        for name in ("calibration", "evaluation")
    )
    run = _search if given["recipe"] == "auto" else _quantize
    report, verdict, more = run(bundle, output, calibration, evaluation, given)
    for name in report.kept:
        click.echo(f"kept in float: {name}", err=True)
    if as_json:
        values = {**dataclasses.asdict(verdict), **more, "bundle": str(report.bundle.path)}
        click.echo(json.dumps(values, ensure_ascii=False))
        return
    for line in verdict.table():
        click.echo(line)
    click.echo(verdict.sentence)
    click.echo(f"{report.bundle.path} ({report.bundle.size / 1e6:.1f} MB)")


def _check(given: dict[str, Any]) -> None:
    """Refuse options that would not be heeded."""
    from seq2edge.evaluation.metrics import find_metric

    auto = given["recipe"] == "auto"
    if given["metric"] is not None:
        if given["evaluation"] is None:
            raise click.UsageError("--metric is measured on --evaluation, which is missing")
        find_metric(given["metric"])
    if auto and given["budget"] is None:
        raise click.UsageError("auto needs a --budget, such as wer+0.5")
    if not auto:
        for name in ("budget", "report"):
            if given[name] is not None:
                raise click.UsageError(f"--{name} is for --recipe auto")
    if auto and given["target"] not in (None, "onnxruntime"):
        raise click.UsageError(
            f"auto measures speed here, where nothing for {given['target']} runs; name a recipe"
        )


def _options(given: dict[str, Any]) -> Any:
    from seq2edge.quantize.recipes import Options

    return Options(
        ranges=given["ranges"], smoothing=given["smoothing"], int8_cache=given["int8_cache"]
    )


def _quantize(
    bundle: Path,
    output: Path,
    calibration: list[Example],
    evaluation: list[Example],
    given: dict[str, Any],
) -> tuple[QuantizationReport, Verdict, dict[str, Any]]:
    from seq2edge.quantize.pipeline import quantize_bundle

    with tempfile.TemporaryDirectory() as folder:
        with progress_bar("read") as show:
            report = quantize_bundle(
                bundle,
                output,
                given["recipe"],
                target=given["target"],
                options=_options(given),
                calibration=calibration,
                language=given["language"],
                threads=given["threads"],
                emulation=Path(folder) / "emulated",
                overwrite=given["overwrite"],
                progress=show,
            )
        return report, _judge(report, evaluation, given, given["metric"]), {}


def _search(
    bundle: Path,
    output: Path,
    calibration: list[Example],
    evaluation: list[Example],
    given: dict[str, Any],
) -> tuple[QuantizationReport, Verdict, dict[str, Any]]:
    from seq2edge.evaluation import metrics
    from seq2edge.quantize.automatic import quantize_automatically
    from seq2edge.quantize.budget import Budget
    from seq2edge.quantize.pipeline import Quantizer
    from seq2edge.quantize.report import write_report

    budget = Budget.parse(given["budget"])
    quantizer = Quantizer(
        bundle,
        calibration=calibration,
        language=given["language"],
        threads=given["threads"],
    )
    with progress_bar("read") as show:
        report, search = quantize_automatically(
            quantizer,
            output,
            budget,
            evaluation,
            options=_options(given),
            language=given["language"],
            overwrite=given["overwrite"],
            progress=show,
        )
    for line in search.table():
        click.echo(line, err=True)
    metric = given["metric"] or (budget.metric if budget.metric in metrics.METRICS else None)
    verdict = _judge(report, evaluation, given, metric)
    page = given["report"] or output.with_name(f"{output.name}.html")
    write_report(page, search, verdict.sentence, f"{output.name}: {budget}")
    click.echo(f"report: {page}", err=True)
    more = {"search": search.values(), "report": str(page)}
    return report, verdict, more


def _judge(
    report: QuantizationReport, evaluation: list[Example], given: dict[str, Any], metric: str | None
) -> Verdict:
    from seq2edge.quantize.verdict import judge

    return judge(
        report.source,
        report.bundle,
        emulated=report.emulated,
        examples=evaluation,
        metric=metric,
        language=given["language"],
        threads=given["threads"],
    )
