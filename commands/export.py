"""`seq2edge export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import click

from seq2edge.bundle.manifest import Task
from seq2edge.commands.options import PATH, progress_bar
from seq2edge.commands.terminal import show
from seq2edge.errors import OptionError, foreign_errors
from seq2edge.files.storage import file_errors


@click.command()
@click.argument("checkpoint")
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the new bundle.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@click.option(
    "--alignments",
    is_flag=True,
    help="The decoder also gives which source each token comes from (encoder-decoder).",
)
@click.option("--revision", help="Branch, tag or commit of a model on the hub.")
@click.option("--offline", is_flag=True, help="Take a model of the hub from the cache alone.")
@click.option("--token-file", type=PATH, help="File with a token for the hub, instead of HF_TOKEN.")
@click.option(
    "--original",
    type=click.Choice(["yes", "no"]),
    default="yes",
    show_default=True,
    help="Compare with transformers' own model too, where there is one.",
)
@click.option(
    "--task",
    type=click.Choice([*get_args(Task), "rerank"]),
    help="What it is to do, where the checkpoint's class leaves a choice.",
)
@click.option(
    "--words",
    metavar="YES[,NO]",
    help="Whose logits a language model's score is made of, with --task rerank.",
)
@click.option(
    "--template",
    metavar="NAME|FILE",
    help="How a reranker is asked: qwen3-reranker, mxbai-rerank-v2, bge-reranker-v2-gemma, or a "
    "chat template with the roles query and document.",
)
@click.option(
    "--long-context",
    is_flag=True,
    help="Take LongRoPE's long factors, for all texts, also beyond the original length.",
)
def export(
    checkpoint: str,
    output: Path,
    *,
    overwrite: bool,
    alignments: bool,
    original: str,
    revision: str | None,
    offline: bool,
    token_file: Path | None,
    task: str | None,
    words: str | None,
    template: str | None,
    long_context: bool,
) -> None:
    """Export CHECKPOINT to a proven bundle.

    Every graph is compared with the model before anything is written.

    CHECKPOINT is a Hugging Face folder, a CTranslate2 Whisper folder or a GGUF Llama file; where
    there is nothing of that name, a model owner/name of the Hugging Face hub (HF_ENDPOINT).
    """
    try:
        from seq2edge.export.pipeline import export_checkpoint
    except ImportError as error:
        raise click.ClickException(f"export: {error}; install seq2edge[export,cpu]") from error
    with progress_bar("load") as progress:
        report = export_checkpoint(
            checkpoint,
            output,
            revision=revision,
            token=_token(token_file),
            offline=offline,
            overwrite=overwrite,
            alignments=alignments,
            original=original == "yes",
            task=task,
            words=words.split(",") if words else (),
            template=_template(template) if template else "",
            long_context=long_context,
            progress=progress,
        )
    for name, value in report.ignored_settings.items():
        show(f"not applied: generation setting {name}={json.dumps(value)}", err=True)
    for note in report.notes:
        show(f"note: {note}", err=True)
    for name in report.unused_tensors:
        show(f"not used by this task: tensor {name}", err=True)
    for target, parity in report.parity.items():
        tokens = f", {parity.tokens_equal}/{parity.tokens_compared} tokens equal"
        tokens = tokens if parity.tokens_compared else ""
        click.echo(f"parity: {target} logits within {parity.max_absolute:.1e}{tokens}", err=True)
    compared = report.bundle.manifest.original
    if compared is not None and compared.parity is not None:
        within = compared.parity.max_absolute
        click.echo(f"original: {compared.implementation} answers within {within:.1e}", err=True)
    elif compared is not None:
        click.echo(f"original: not compared, {compared.reason}", err=True)
    click.echo(f"sha256: {report.bundle.sha256}", err=True)
    click.echo(f"{report.bundle.path} ({report.bundle.size / 1e6:.1f} MB)")


def _template(name: str) -> str:
    """A known template's name, or the text of a file."""
    file = Path(name)
    if not file.exists():
        return name
    with foreign_errors(OptionError, file), file_errors(file):
        return file.read_text(encoding="utf-8")


def _token(file: Path | None) -> str | None:
    if file is None:
        return None
    with file_errors(file):
        return file.read_text(encoding="utf-8", errors="replace").strip()
