"""What is done with whole bundles: `verify`, `inspect`, `pack` and `unpack`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from seq2edge.commands.options import (
    BUNDLE,
    PATH,
    Execution,
    Origin,
    check_options,
    origin_options,
)
from seq2edge.commands.terminal import show


@click.command()
@BUNDLE
@click.option("--no-run", is_flag=True, help="Check the files alone.")
@check_options
def verify(bundle: Path, *, no_run: bool, execution: Execution) -> None:
    """Check BUNDLE: every file, every graph, and that it can do its task.

    Files are compared with their recorded sizes and hashes; every graph and engine that runs here
    replays the tokens recorded at export, and what does not run says why. Then its tokenizer, chat
    template, decoding defaults and task are tried once.
    """
    from seq2edge.bundle import Bundle

    opened = Bundle.open(bundle, hashes=True, **execution.demands())
    click.echo(f"files: {len(opened.manifest.files)} with the recorded sizes and hashes")
    if no_run:
        return
    from seq2edge.runtime.backends.verification import verify_graphs

    failed = ran = False
    outcomes = verify_graphs(opened, device=execution.device, threads=execution.threads)
    for target, outcome in outcomes:
        show(f"{target}: {outcome.summary}")
        failed |= not outcome.passed
        ran |= outcome.ran
    if failed:
        raise click.ClickException(f"{bundle}: does not give what was recorded at export")
    if not ran:
        click.echo(f"{opened.manifest.task}: not tried, nothing of it runs here")
        return
    from seq2edge.runtime.backend import open_backend
    from seq2edge.runtime.model import Model
    from seq2edge.runtime.rehearsal import rehearse

    backend, _ = open_backend(opened, device=execution.device, threads=execution.threads)
    for line in rehearse(Model(opened, backend)):
        show(line)


@click.command()
@BUNDLE
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
def inspect(bundle: Path, *, as_json: bool) -> None:
    """Print what BUNDLE is, from its manifest."""
    from seq2edge.bundle import Bundle, describe, summarize

    values = describe(Bundle.open(bundle))
    if as_json:
        show(json.dumps(values, indent=2, ensure_ascii=False))
        return
    for line in summarize(values):
        show(line)


@click.command()
@BUNDLE
@click.argument("file", type=PATH)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option(
    "--sign",
    "key",
    type=PATH,
    metavar="KEY",
    help="Sign it with this private key (Ed25519, PEM); devices check it with --require-key.",
)
def pack(bundle: Path, file: Path, *, overwrite: bool, key: Path | None) -> None:
    """Make one FILE of BUNDLE, to copy to a device."""
    from seq2edge.bundle import Bundle, archive

    click.echo(archive.pack(bundle, file, overwrite=overwrite, key=key))
    click.echo(f"sha256: {Bundle.open(bundle).sha256}", err=True)


@click.command()
@click.argument("file", type=PATH)
@click.argument("bundle", type=PATH)
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@origin_options
def unpack(file: Path, bundle: Path, *, overwrite: bool, origin: Origin) -> None:
    """Make the folder BUNDLE of a packed FILE, checking every hash."""
    from seq2edge.bundle import archive

    unpacked = archive.unpack(file, bundle, overwrite=overwrite, **origin.demands())
    click.echo(unpacked.path)
