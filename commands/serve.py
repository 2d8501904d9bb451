"""Models over HTTP: `serve`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from seq2edge.commands.options import PATH, Execution, runtime_options
from seq2edge.errors import BackendError, OptionError


@click.command()
@click.argument("bundles", type=PATH, nargs=-1, metavar="[BUNDLE]...")
@click.option("--models", type=PATH, metavar="DIR", help="Serve every bundle in this folder too.")
@click.option("--alias", "aliases", multiple=True, metavar="OTHER=NAME", help="Another name.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--keys", type=PATH, help="Only calls with one of the keys in this file.")
@click.option("--certificate", type=PATH, help="For TLS, with --certificate-key.")
@click.option("--certificate-key", type=PATH)
@click.option("--allowed-host", "hosts", multiple=True, help="A name it is asked by; repeat.")
@click.option("--origin", "origins", multiple=True, help="Let this site's pages call; repeat.")
@click.option("--no-page", is_flag=True, help="No page at / to try models.")
@click.option("--traces", metavar="URL", help="Send spans to OpenTelemetry's collector (OTLP).")
@click.option(
    "--memory", type=click.IntRange(1), metavar="MIB", help="Of all loaded models' files."
)
@click.option(
    "--idle", type=click.FloatRange(0), metavar="SECONDS", help="Unload what nobody uses so long."
)
@click.option(
    "--active", type=click.IntRange(1), default=64, show_default=True, help="Calls at a time."
)
@click.option(
    "--waiting", type=click.IntRange(1), default=256, show_default=True, help="Calls that wait."
)
@click.option(
    "--connections", type=click.IntRange(1), default=1000, show_default=True, help="Most at a time."
)
@click.option(
    "--deadline", type=float, default=600.0, show_default=True, help="Seconds that a call has."
)
@click.option(
    "--drain", type=float, default=30.0, show_default=True, help="Seconds that calls have to end."
)
@click.option(
    "--cache-dir", type=PATH, metavar="DIR", help="Keep what prompts begin with in files here."
)
@click.option(
    "--cache-size", type=click.IntRange(1), default=1024, show_default=True, metavar="MIB"
)
@runtime_options
def serve(
    bundles: tuple[Path, ...],
    *,
    models: Path | None,
    aliases: tuple[str, ...],
    host: str,
    port: int,
    keys: Path | None,
    certificate: Path | None,
    certificate_key: Path | None,
    hosts: tuple[str, ...],
    origins: tuple[str, ...],
    no_page: bool,
    traces: str | None,
    memory: int | None,
    idle: float | None,
    active: int,
    waiting: int,
    connections: int,
    deadline: float,
    drain: float,
    cache_dir: Path | None,
    cache_size: int,
    execution: Execution,
) -> None:
    """Serve BUNDLEs by OpenAI's HTTP API, each by its folder's name.

    A model is loaded when it is first asked for. Lines of JSON on stderr say what happens, and
    nothing of what is asked and answered. An interrupt or SIGTERM lets calls end first.
    """
    from seq2edge.runtime.model import load

    try:
        from seq2edge.serve.app import make_app
        from seq2edge.serve.calls.pool import Pool
        from seq2edge.serve.calls.settings import Settings
        from seq2edge.serve.gates import write_logs
        from seq2edge.serve.server import run
    except ModuleNotFoundError as error:
        raise BackendError(f"serve: needs {error.name}; pip install seq2edge[serve]") from error

    pool = Pool(
        _by_name(bundles, models),
        lambda folder: load(
            folder,
            device=execution.device,
            threads=execution.threads,
            hashes=execution.hashes,
            **execution.demands(),
        ),
        aliases=dict(map(_pair, aliases)),
        memory=None if memory is None else memory * 2**20,
        idle=idle,
        active=active,
        waiting=waiting,
    )
    settings = Settings(
        host=host,
        port=port,
        certificate=certificate,
        certificate_key=certificate_key,
        keys=keys,
        hosts=hosts,
        origins=origins,
        page=not no_page,
        traces=traces,
        connections=connections,
        deadline=deadline,
        drain=drain,
        cache_dir=cache_dir,
        cache_size=cache_size * 2**20,
    )
    if keys is None and not settings.loopback:
        click.echo(f"seq2edge: whoever reaches {host} may use it; --keys asks for one", err=True)
    write_logs()
    run(make_app(pool, settings))


def _by_name(bundles: tuple[Path, ...], models: Path | None) -> dict[str, Path]:
    """Folders by their own names."""
    from seq2edge.bundle.manifest import MANIFEST

    paths = [
        *bundles,
        *(sorted(path.parent for path in models.glob(f"*/{MANIFEST}")) if models else []),
    ]
    folders = {Path(os.path.abspath(path)).name: path for path in paths}  # noqa: PTH100 - links stay
    if not folders:
        raise OptionError("serve: no bundle; give one, or a folder of them by --models")
    if len(folders) < len(paths):
        raise OptionError("serve: two bundles of one name; rename a folder")
    return folders


def _pair(text: str) -> tuple[str, str]:
    alias, _, name = text.partition("=")
    return alias, name
