"""From a float bundle to a quantized one, measured against the float model's recorded answers."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import shutil
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

import seq2edge
from seq2edge.bundle import Bundle, BundleWriter
from seq2edge.errors import BundleError, ExportError, OptionError
from seq2edge.export.weights import WEIGHTS, WeightsWriter
from seq2edge.manifest import (
    MANIFEST,
    GraphRecord,
    Manifest,
    ParityRecord,
    QuantizationRecord,
    Role,
    utc_now,
)
from seq2edge.quantize.calibrated import calibrate_weights
from seq2edge.quantize.calibration import Calibration
from seq2edge.quantize.examples import Example
from seq2edge.quantize.passes.block_weights import BlockWeights, Codes, QuantizedWeights
from seq2edge.quantize.passes.sites import find_sites
from seq2edge.quantize.recipes import Recipe, find_recipe
from seq2edge.reference import REFERENCE, read_reference
from seq2edge.runtime import parity
from seq2edge.runtime.backends.onnxruntime import OnnxRuntimeBackend

Progress = Callable[[str, float], None]  # what is being done, and how much of all is done (0 to 1)

TARGET = "onnxruntime"
PACKAGES = ("onnx-ir", "onnxruntime", "numpy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizationReport:
    """What was made of which bundle, and how far it is from the float model's recorded tokens."""

    source: Bundle
    bundle: Bundle
    recipe: Recipe
    parity: parity.Parity
    kept: tuple[str, ...]  # weights that stayed float


def quantize_bundle(
    source: str | Path,
    destination: str | Path,
    recipe: str,
    *,
    calibration: Sequence[Example] = (),
    language: str | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress = lambda *_: None,
) -> QuantizationReport:
    """Write a quantized copy of a float bundle; the source is only read.

    The copy holds the graphs for ONNX Runtime alone. With examples to calibrate on, the weights
    are rounded for what their inputs are there; `language` is a multilingual speech model's. Raises
    OptionError for an unknown recipe or one that uses no examples, InputError for examples that the
    model cannot read, BundleError for a source that is damaged, quantized already or without those
    graphs, and ExportError where the result answers no numbers.
    """
    chosen = find_recipe(recipe)
    if calibration and not chosen.calibrates:
        raise OptionError(f"calibration: {recipe} uses none, its weights are rounded to nearest")
    progress("read", 0.0)
    bundle = Bundle.open(source, hashes=True)
    graphs = _graphs(bundle)
    with BundleWriter(destination, overwrite=overwrite) as writer:
        models: dict[Role, ir.Model] = {g.role: ir.load(bundle.file(g.file)) for g in graphs}
        seen: Calibration | None = None
        if calibration:
            seen = Calibration(
                bundle,
                calibration,
                language=language,
                threads=threads,
                progress=lambda part: progress("decode examples", 0.05 + 0.25 * part),
            )
        weights = QuantizedWeights(
            bundle.manifest.dims, chosen, _calibrate(seen, models, bundle, chosen, progress)
        )
        progress("quantize", 0.6)
        forms = _write_graphs(writer, graphs, models, weights)
        _copy_others(writer, bundle)
        manifest = _manifest(bundle, graphs, chosen, forms, seen)
        progress("compare", 0.8)
        measured = _measure(writer.preview(manifest), read_reference(bundle.file(REFERENCE)))
        progress("write", 0.9)
        record = ParityRecord(**dataclasses.asdict(measured))
        finished = writer.finish(dataclasses.replace(manifest, parity=record))
    progress("write", 1.0)
    kept = tuple(name for name, form in forms.items() if form == "float32")
    return QuantizationReport(
        source=bundle, bundle=finished, recipe=chosen, parity=measured, kept=kept
    )


def _calibrate(
    seen: Calibration | None,
    models: Mapping[Role, ir.Model],
    bundle: Bundle,
    recipe: Recipe,
    progress: Progress,
) -> dict[Hashable, Codes]:
    if seen is None:
        return {}
    plan = QuantizedWeights(bundle.manifest.dims, recipe)
    sites = {role: find_sites(model.graph, plan.tables) for role, model in models.items()}
    return calibrate_weights(
        seen, sites, plan, lambda part: progress("calibrate", 0.3 + 0.3 * part)
    )


def _graphs(bundle: Bundle) -> tuple[GraphRecord, ...]:
    precision = bundle.manifest.precision
    if precision != "float32":
        raise BundleError(
            f"{bundle.path}: quantized already ({precision}), quantize the float bundle instead"
        )
    graphs = tuple(graph for graph in bundle.manifest.graphs if graph.target == TARGET)
    if not graphs or REFERENCE not in bundle.manifest.files:
        raise BundleError(
            f"{bundle.path}: has no graphs for {TARGET} or no {REFERENCE}, "
            "export the checkpoint again"
        )
    return graphs


def _write_graphs(
    writer: BundleWriter,
    graphs: tuple[GraphRecord, ...],
    models: Mapping[Role, ir.Model],
    quantized: QuantizedWeights,
) -> dict[str, str]:
    """Quantize and write all graphs over one weights file; what became of each weight."""
    forms: dict[str, str] = {}
    for role, model in models.items():
        change = BlockWeights(quantized)
        change(model)
        forms |= {f"{role}: {name}": form for name, form in change.changed.items()}
    WeightsWriter(writer.path(WEIGHTS)).write(models.values())
    for graph in graphs:
        ir.save(models[graph.role], writer.path(graph.file))
    return forms


def _copy_others(writer: BundleWriter, bundle: Bundle) -> None:
    """Tokenizers and recorded answers; engines were compiled for the float graphs."""
    manifest = bundle.manifest
    own = {graph.file for graph in manifest.graphs} | {WEIGHTS}
    for engine in manifest.engines:
        own |= {engine.file, engine.sidecar or ""}
    for name in manifest.files:
        if name not in own:
            shutil.copyfile(bundle.file(name), writer.path(name))


def _manifest(
    bundle: Bundle,
    graphs: tuple[GraphRecord, ...],
    recipe: Recipe,
    forms: dict[str, str],
    seen: Calibration | None,
) -> Manifest:
    raw = (bundle.path / MANIFEST).read_bytes()
    return dataclasses.replace(
        bundle.manifest,
        precision=recipe.name,  # type: ignore[arg-type]
        graphs=graphs,
        engines=(),
        # Stands in until it is measured.
        parity=bundle.manifest.parity,
        quantization=QuantizationRecord(
            recipe=recipe.summary,
            method="GPTQ" if seen is not None else "round to nearest",
            examples=len(seen.traces) if seen is not None else 0,
            weights=forms,
            source_sha256=hashlib.sha256(raw).hexdigest(),
            tool_version=seq2edge.__version__,
            created=utc_now(),
            packages={name: importlib.metadata.version(name) for name in PACKAGES},
        ),
    )


def _measure(bundle: Bundle, reference: parity.Arrays) -> parity.Parity:
    found = parity.replay(OnnxRuntimeBackend(bundle, target=TARGET), reference)
    if found.max_relative >= parity.NO_NUMBER:
        raise ExportError(
            f"parity: the {bundle.manifest.precision} graphs answer no numbers; "
            "the bundle was not written"
        )
    return found
