"""The commands `eval` and `audit`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seq2edge.commands.options import (
    BATCH,
    BUNDLE,
    CUT,
    FOLDER,
    METRICS,
    decode_options,
    load_model,
    merge,
    progress_bar,
    runtime_options,
    say_cut,
)

if TYPE_CHECKING:
    from seq2edge.evaluation.answers import ModelRequest
    from seq2edge.runtime.model import Model


@click.command("eval")
@BUNDLE
@click.argument("data", nargs=-1, required=True, type=FOLDER)
@click.option(
    "--metric",
    "names",
    multiple=True,
    metavar="NAME",
    help=f"{METRICS}; can be given again. By default the task's usual ones.",
)
@click.option(
    "--baseline", type=FOLDER, metavar="BUNDLE", help="Another bundle that this one is held to."
)
@click.option(
    "--per-domain/--no-per-domain",
    default=True,
    show_default=True,
    help="Also a row for each domain, where there are several.",
)
@click.option("--limit", type=click.IntRange(1), help="Take so many examples of each DATA.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
@BATCH
@click.option("--from", "source_language", help="Source language of a multilingual model.")
@click.option("--to", "target_language", help="Target language of a multilingual model.")
@click.option("--language", help="Spoken language, where the model knows several.")
@click.option(
    "--task",
    type=click.Choice(["transcribe", "translate"]),
    default="transcribe",
    show_default=True,
    help="Of speech: keep the language or translate to English.",
)
@decode_options
@CUT
@runtime_options
def evaluate(bundle: Path, data: tuple[Path, ...], *, as_json: bool, **given: Any) -> None:
    """Measure BUNDLE on DATA.

    DATA are files of examples with references: a text, a tab and its reference a line; JSON lines
    with "input", "reference" (or a list, "references") and "domain"; or for speech a folder of
    *.wav and transcripts.tsv. Each file is a domain unless its lines name others. Answers come
    through the runtime, so any precision and device can be measured.
    """
    from seq2edge.bundle import Bundle
    from seq2edge.evaluation import evaluate as evaluation

    task = Bundle.open(bundle).manifest.task
    domains = evaluation.read_domains(data, task, limit=given["limit"])
    examples = [example for found in domains.values() for example in found]
    model, request = _open(bundle, given)
    metrics = evaluation.choose_metrics(model, examples, given["names"], request)
    baseline = _open(given["baseline"], given) if given["baseline"] else None
    with progress_bar("answer") as show:
        rows = evaluation.evaluate(
            model,
            domains if given["per_domain"] else {evaluation.ALL: examples},
            metrics,
            request,
            baseline=baseline,
            progress=show,
        )
    if given["cut"]:
        say_cut(model)
    if as_json:
        values = {"bundle": str(bundle), "backend": model.reason}
        values |= {"baseline": str(given["baseline"])} if baseline else {}
        click.echo(json.dumps({**values, "rows": [dataclasses.asdict(row) for row in rows]}))
        return
    for line in evaluation.table(rows):
        click.echo(line)


@click.command()
@BUNDLE
@click.option(
    "--pairs",
    "pairs_file",
    type=FOLDER,
    help="Terms and templates, JSON or TOML; by default those of the package.",
)
@click.option("--report", type=FOLDER, help="Write a plot (.png) or a page with it (.html).")
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
@click.option("--max-new-tokens", type=click.IntRange(1), help="Of generators; 32 by default.")
@BATCH
@click.option("--from", "source_language", help="Source language of a multilingual model.")
@click.option("--to", "target_language", help="Target language of a multilingual model.")
@runtime_options
def audit(
    bundle: Path,
    *,
    pairs_file: Path | None,
    report: Path | None,
    as_json: bool,
    max_new_tokens: int | None,
    device: str,
    threads: int | None,
    **asked: Any,
) -> None:
    """Look for bias in BUNDLE's answers.

    Runs sentences that differ in one term (gender, nationality, age) and prints how far the
    answers to them lie apart. Small gaps are no proof of fairness: docs/audit.md.
    """
    from seq2edge.evaluation.answers import ModelRequest
    from seq2edge.evaluation.audit import audit as run
    from seq2edge.evaluation.audit_report import check_report, table, write_report
    from seq2edge.evaluation.pairs import read_pairs

    pairs = read_pairs(pairs_file)
    if report is not None:
        check_report(report)
    model = load_model(bundle, device, threads)
    with progress_bar("audit") as show:
        found = run(model, pairs, ModelRequest(**asked), new_tokens=max_new_tokens, progress=show)
    if report is not None:
        write_report(report, found)
        click.echo(f"report: {report}", err=True)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), ensure_ascii=False))
        return
    for line in table(found):
        click.echo(line)


_SPENT = ("names", "baseline", "per_domain", "limit", "device", "threads", "cut")
_ASKED = ("batch", "source_language", "target_language", "language", "task")


def _open(bundle: Path, given: dict[str, Any]) -> tuple[Model, ModelRequest]:
    """The model, and how it is asked: the bundle's own options unless some were given."""
    from seq2edge.evaluation.answers import ModelRequest

    model = load_model(bundle, given["device"], given["threads"], cut=given["cut"])
    decoding = {key: value for key, value in given.items() if key not in (*_SPENT, *_ASKED)}
    changed = any(value is not None for value in decoding.values())
    options = merge(model.options, decoding) if changed else None
    return model, ModelRequest(options=options, **{key: given[key] for key in _ASKED})
