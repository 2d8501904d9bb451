"""The commands `targets` and `build`: what engines can be built for, and building them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from seq2edge.commands.options import BUNDLE, PATH, progress_bar, say_unsigned
from seq2edge.errors import OptionError

if TYPE_CHECKING:
    from seq2edge.bundle import Bundle
    from seq2edge.export.tensorrt.build import BuildReport
    from seq2edge.export.tensorrt.sizes import BuildSizes


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Everything, with sources, as JSON.")
def targets(*, as_json: bool) -> None:
    """List what engines can be built for.

    For each target: its TensorRT, CUDA and compute capability, the graphs that its parser reads,
    where its engines are built, and what they can compute in.
    """
    from seq2edge.export.tensorrt.targets import TARGETS, table

    if as_json:
        values = [dataclasses.asdict(target) for target in TARGETS.values()]
        click.echo(json.dumps(values, indent=2))
        return
    for line in table():
        click.echo(line)


@click.command()
@BUNDLE
@click.option("--target", help="What to build for, see `seq2edge targets`.")
@click.option("--batch", default="1:8", help="Inputs at once, least:most or least:best:most.")
@click.option("--beams", type=int, default=4, help="Beams of an input, at most.")
@click.option("--source", default="1:64:512", help="Tokens of an encoder's input.")
@click.option("--prompt", default="1:32:128", help="Tokens that a decoder begins with.")
@click.option("--capacity", type=int, default=256, help="Tokens that a cache holds for a row.")
@click.option(
    "--top-k",
    type=int,
    help="Largest logits of a row that an engine gives to choose from: by default four a beam and "
    "16 at least; 0 for all logits alone.",
)
@click.option(
    "--timing-cache",
    type=PATH,
    metavar="FILE",
    help="Where TensorRT keeps how long kernels took; by default in the user's cache.",
)
@click.option(
    "--plan", "only_plan", is_flag=True, help="Tell what it takes in memory, and build nothing."
)
@click.option("--json", "as_json", is_flag=True, help="What was built, as one JSON object.")
def build(
    bundle: Path,
    target: str | None,
    batch: str,
    beams: int,
    source: str,
    prompt: str,
    capacity: int,
    top_k: int | None,
    timing_cache: Path | None,
    *,
    only_plan: bool,
    as_json: bool,
) -> None:
    """Build TensorRT engines of a BUNDLE and add them to it.

    The precision is the bundle's: quantize for tensorrt first, or get float32. TensorRT-RTX builds
    for RTX GPUs on any machine; for a Jetson, build on the board. Where their device is, engines
    are checked before they are added. Whatever stops a build leaves the bundle as it was; what is
    built already, of the same graphs for the same sizes, is kept.
    """
    _require_extra()
    from seq2edge.bundle import Bundle
    from seq2edge.export.tensorrt.sizes import BuildSizes, parse_range

    sizes = BuildSizes(
        batch=parse_range(batch),
        beams=beams,
        source=parse_range(source),
        prompt=parse_range(prompt),
        capacity=capacity,
        top_k=top_k,
    )
    opened = Bundle.open(bundle, hashes=not only_plan)
    if not only_plan:
        lines = _build(opened, target, sizes, timing_cache, as_json=as_json)
    elif timing_cache is None:
        lines = _plan(opened, target, sizes, as_json=as_json)
    else:
        raise OptionError("timing-cache: --plan builds nothing; leave one of them out")
    for line in lines:
        click.echo(line)


def _require_extra() -> None:
    try:
        import seq2edge.export.tensorrt.build  # noqa: F401 - planning needs as much
    except ImportError as error:
        raise click.ClickException(f"build: {error}; install seq2edge[build]") from error


def _build(
    bundle: Bundle,
    target: str | None,
    sizes: BuildSizes,
    timing_cache: Path | None,
    *,
    as_json: bool,
) -> list[str]:
    """What was built, in lines; remarks go to stderr."""
    from seq2edge.export.tensorrt.build import build_bundle, plan_request

    request = plan_request(bundle, target, sizes, timing_cache=timing_cache)
    signed = bundle.signed
    with progress_bar("build") as show:
        report = build_bundle(request, show)
    say_unsigned(signed=signed and not report.bundle.signed)
    for remark in report.remarks:
        click.echo(remark, err=True)
    return [_values(report)] if as_json else _describe(report)


def _values(report: BuildReport) -> str:
    """The report as a JSON object."""
    return json.dumps(
        {
            "bundle": str(report.bundle.path),
            "engines": [dataclasses.asdict(info) for info in report.engines],
            "verdict": report.verdict and dataclasses.asdict(report.verdict),
            "unchecked": report.unchecked,
        }
    )


def _plan(bundle: Bundle, target: str | None, sizes: BuildSizes, *, as_json: bool) -> list[str]:
    """What building and running takes; any target's can be told on any machine."""
    from seq2edge.export.tensorrt.memory_plan import plan_memory
    from seq2edge.export.tensorrt.targets import check, find_target

    device = find_target(target or "portable")
    check(device, bundle.manifest.precision)
    plan = plan_memory(bundle, sizes, target=device)
    return [json.dumps(plan.values())] if as_json else plan.table()


def _describe(report: BuildReport) -> list[str]:
    """What stands in each engine, line by line."""
    lines = []
    for info in report.engines:
        state = "kept, built before" if info.role in report.reused else f"{info.build_seconds} s"
        products = ", ".join(f"{count} {kind}" for kind, count in info.products.items())
        lines.append(f"{info.role} for {info.target}, {info.precision}, {info.form}: {state}")
        lines.append(f"  {info.layers} layers; products: {products}")
        if info.role == "decoder":
            lines.append(f"  {_answer(info.sizes.top_k)}")
        for index, profile in enumerate(info.profiles):
            lines.append(
                f"  {profile}: {info.fused_attentions[index]} fused attentions, "
                f"{info.cache_updates[index] - info.cache_copies[index]} caches updated in place, "
                f"{info.cache_copies[index]} copied"
            )
    if report.verdict is not None:
        lines.append(f"checked: {report.verdict.summary}")
    elif report.unchecked:
        lines.append(f"not checked here ({report.unchecked}): will be when first opened")
    return [*lines, f"{report.bundle.path} ({report.bundle.size / 1e6:.1f} MB)"]


def _answer(top_k: int) -> str:
    return f"gives the {top_k} largest logits to choose from" if top_k else "gives all logits"
