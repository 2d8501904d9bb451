"""The commands `eval` and `audit`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from seq2edge.commands.options import (
    BATCH,
    BUNDLE,
    CUT,
    METRICS,
    PATH,
    Decoding,
    Execution,
    decode_options,
    languages,
    load_model,
    progress_bar,
    runtime_options,
    say_cut,
)
from seq2edge.errors import OptionError

if TYPE_CHECKING:
    from seq2edge.evaluation.answers import ModelRequest
    from seq2edge.runtime.model import Model


@click.command("eval")
@BUNDLE
@click.argument("data", nargs=-1, required=True, type=PATH)
@click.option(
    "--metric",
    "names",
    multiple=True,
    metavar="NAME",
    help=f"{METRICS}; can be given again. By default the task's usual ones.",
)
@click.option(
    "--baseline", type=PATH, metavar="BUNDLE", help="Another bundle that this one is held to."
)
@click.option(
    "--normalize",
    type=click.Choice(["english", "basic", "none"]),
    help="For wer and cer: write texts in one way first, as published figures of speech do; by "
    "default in lower case without punctuation.",
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
@languages
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
def evaluate(
    bundle: Path,
    data: tuple[Path, ...],
    *,
    names: tuple[str, ...],
    normalize: str | None,
    baseline: Path | None,
    per_domain: bool,
    limit: int | None,
    as_json: bool,
    batch: int,
    source_language: str | None,
    target_language: str | None,
    language: str | None,
    task: str,
    decoding: Decoding,
    cut: bool,
    execution: Execution,
) -> None:
    """Measure BUNDLE on DATA.

    DATA are files of examples with references: a text, a tab and its reference a line; JSON lines
    with "input", "reference" (or a list, "references") and "domain"; or for speech a folder of
    *.wav and transcripts.tsv. Each file is a domain unless its lines name others. Answers come
    through the runtime, so any precision and device can be measured.
    """
    from seq2edge.bundle import Bundle
    from seq2edge.evaluation import evaluate as evaluation
    from seq2edge.evaluation.answers import ModelRequest

    if execution.sha256 and baseline:
        raise OptionError("sha256: pins one bundle, leave it or the baseline out")

    def opened(path: Path) -> tuple[Model, ModelRequest]:
        """The model, asked with its bundle's own options where none are on the command line."""
        model = load_model(path, execution, cut=cut, draft=decoding.draft)
        return model, ModelRequest(
            options=decoding.over(model.options) if decoding.changes() else None,
            language=language,
            task=task,
            source_language=source_language,
            target_language=target_language,
            batch=batch,
        )

    kind = Bundle.open(bundle, **execution.demands()).manifest.task
    domains = evaluation.read_domains(data, kind, limit=limit)
    examples = [example for examples in domains.values() for example in examples]
    model, request = opened(bundle)
    metrics = evaluation.choose_metrics(model, examples, names, request, normalize=normalize)
    with progress_bar("answer") as show:
        rows = evaluation.evaluate(
            model,
            domains if per_domain else {evaluation.ALL: examples},
            metrics,
            request,
            baseline=opened(baseline) if baseline else None,
            progress=show,
        )
    if cut:
        say_cut(model)
    if as_json:
        values = {"bundle": str(bundle), "backend": model.reason}
        values |= {"baseline": str(baseline)} if baseline else {}
        click.echo(json.dumps({**values, "rows": [dataclasses.asdict(row) for row in rows]}))
        return
    for line in evaluation.table(rows):
        click.echo(line)


@click.command()
@BUNDLE
@click.option(
    "--pairs",
    "pairs_file",
    type=PATH,
    help="Terms and templates, JSON or TOML; by default those of the package.",
)
@click.option("--report", type=PATH, help="Write a plot (.png) or a page with it (.html).")
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
@click.option("--max-new-tokens", type=click.IntRange(1), help="Of generators; 32 by default.")
@BATCH
@languages
@runtime_options
def audit(
    bundle: Path,
    *,
    pairs_file: Path | None,
    report: Path | None,
    as_json: bool,
    max_new_tokens: int | None,
    batch: int,
    source_language: str | None,
    target_language: str | None,
    execution: Execution,
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
    model = load_model(bundle, execution)
    request = ModelRequest(
        batch=batch, source_language=source_language, target_language=target_language
    )
    with progress_bar("audit") as show:
        result = run(model, pairs, request, new_tokens=max_new_tokens, progress=show)
    if report is not None:
        write_report(report, result)
        click.echo(f"report: {report}", err=True)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result), ensure_ascii=False))
        return
    for line in table(result):
        click.echo(line)
