"""From a float bundle to a quantized one, measured against the float model's recorded answers."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import shutil
import tempfile
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Literal

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
    TensorRecord,
    utc_now,
)
from seq2edge.quantize.calibrated import calibrate_weights
from seq2edge.quantize.calibration import Calibration
from seq2edge.quantize.emulation import emulate_bundle
from seq2edge.quantize.examples import Example
from seq2edge.quantize.passes.block_weights import BlockWeights, Codes, QuantizedWeights
from seq2edge.quantize.passes.sites import find_sites
from seq2edge.quantize.recipes import QuantizedTarget, Recipe, find_recipe, find_target
from seq2edge.quantize.tensorrt_graphs import MadeGraphs, make_graphs
from seq2edge.reference import REFERENCE, read_reference
from seq2edge.runtime import parity
from seq2edge.runtime.backends.onnxruntime import OnnxRuntimeBackend

Progress = Callable[[str, float], None]  # what is being done, and how much of all is done (0 to 1)

TENSORRT_RELEASE = "10.15"  # the oldest whose parser reads all operators of the canonical graph
DTYPES: dict[ir.DataType, Literal["float16", "bfloat16"]] = {
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
}
PACKAGES = ("onnx-ir", "onnxruntime", "numpy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizationReport:
    """What was made of which bundle, and how far it is from the float model's recorded tokens."""

    source: Bundle
    bundle: Bundle
    recipe: Recipe
    target: QuantizedTarget
    parity: parity.Parity
    kept: tuple[str, ...]  # weights that stayed float


def quantize_bundle(
    source: str | Path,
    destination: str | Path,
    recipe: str,
    *,
    target: str | None = None,
    calibration: Sequence[Example] = (),
    language: str | None = None,
    threads: int | None = None,
    emulation: Path | None = None,
    overwrite: bool = False,
    progress: Progress = lambda *_: None,
) -> QuantizationReport:
    """Write a quantized copy of a float bundle; the source is only read.

    The copy holds the graphs for `target` (onnxruntime or tensorrt, by default the recipe's first)
    alone. With examples to calibrate on, weights are rounded for what their inputs are there, and
    what would overflow stays float32; `language` is a multilingual speech model's. TensorRT's
    graphs are measured by emulation, as a bundle that `emulation` keeps. Raises OptionError for an
    unknown recipe, target or pair of them, and for examples that are missing or not used,
    InputError for examples that the model cannot read, BundleError for a source that is damaged,
    quantized already or without graphs, and ExportError where the result answers no numbers.
    """
    chosen = find_recipe(recipe)
    aim = find_target(chosen, target)
    _check_examples(chosen, aim, calibration)
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
        codes = _calibrate(seen, models, bundle, chosen, progress)
        weights = QuantizedWeights(bundle.manifest.dims, chosen, codes)
        progress("quantize", 0.6)
        if aim == "tensorrt":
            made = make_graphs(
                bundle, weights, seen, lambda part: progress("find ranges", 0.6 + 0.1 * part)
            )
        else:
            made = _onnxruntime_graphs(models, weights)
        records = _write_graphs(writer, bundle, aim, made.models)
        _copy_others(writer, bundle)
        manifest = _manifest(bundle, records, chosen, made, seen)
        progress("compare", 0.8)
        measured = _measure(bundle, writer, manifest, made.models, emulation)
        progress("write", 0.9)
        record = ParityRecord(**dataclasses.asdict(measured))
        finished = writer.finish(dataclasses.replace(manifest, parity=record))
    progress("write", 1.0)
    kept = tuple(name for name, form in made.forms.items() if not form.startswith("int"))
    return QuantizationReport(
        source=bundle,
        bundle=finished,
        recipe=chosen,
        target=aim,
        parity=measured,
        kept=kept if chosen.layers is not None else (),
    )


def _check_examples(recipe: Recipe, target: QuantizedTarget, examples: Sequence[Example]) -> None:
    if examples and not recipe.takes_examples(target):
        raise OptionError(f"calibration: {recipe.name} for {target} uses none")
    if not examples and recipe.needs_examples(target):
        raise OptionError(
            f"calibration: {recipe.name} for {target} needs examples, "
            "they show which values float16 does not hold"
        )


def _calibrate(
    seen: Calibration | None,
    models: Mapping[Role, ir.Model],
    bundle: Bundle,
    recipe: Recipe,
    progress: Progress,
) -> dict[Hashable, Codes]:
    if seen is None or not recipe.calibrates:
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
    graphs = tuple(graph for graph in bundle.manifest.graphs if graph.target == "onnxruntime")
    if not graphs or REFERENCE not in bundle.manifest.files:
        raise BundleError(
            f"{bundle.path}: has no graphs for onnxruntime or no {REFERENCE}, "
            "export the checkpoint again"
        )
    return graphs


def _onnxruntime_graphs(models: dict[Role, ir.Model], weights: QuantizedWeights) -> MadeGraphs:
    forms: dict[str, str] = {}
    for role, model in models.items():
        change = BlockWeights(weights)
        change(model)
        forms |= {f"{role}: {name}": form for name, form in change.changed.items()}
    return MadeGraphs(models=models, forms=forms, float32_values={})


def _write_graphs(
    writer: BundleWriter, bundle: Bundle, target: QuantizedTarget, models: Mapping[Role, ir.Model]
) -> tuple[GraphRecord, ...]:
    """Write all graphs over one weights file."""
    WeightsWriter(writer.path(WEIGHTS)).write(models.values())
    records = []
    for role, model in models.items():
        name = f"{role}.{target}.onnx"
        ir.save(model, writer.path(name))
        record = bundle.graph(role, "canonical" if target == "tensorrt" else target)
        if target == "tensorrt":
            record = dataclasses.replace(
                record,
                target="tensorrt",
                requires={"tensorrt": TENSORRT_RELEASE},
                inputs=tuple(_typed(put, model.graph.inputs) for put in record.inputs),
                outputs=tuple(_typed(put, model.graph.outputs) for put in record.outputs),
            )
        records.append(dataclasses.replace(record, file=name))
    return tuple(records)


def _typed(record: TensorRecord, values: Sequence[ir.Value]) -> TensorRecord:
    """The record with the type that the graph now gives that tensor."""
    value = next(value for value in values if value.name == record.name)
    assert value.dtype is not None
    return dataclasses.replace(record, dtype=DTYPES.get(value.dtype, record.dtype))


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
    made: MadeGraphs,
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
            method="GPTQ" if seen is not None and recipe.calibrates else "round to nearest",
            examples=len(seen.traces) if seen is not None else 0,
            weights=made.forms,
            float32_values=made.float32_values,
            source_sha256=hashlib.sha256(raw).hexdigest(),
            tool_version=seq2edge.__version__,
            created=utc_now(),
            packages={name: importlib.metadata.version(name) for name in PACKAGES},
        ),
    )


def _measure(
    bundle: Bundle,
    writer: BundleWriter,
    manifest: Manifest,
    models: Mapping[Role, ir.Model],
    emulation: Path | None,
) -> parity.Parity:
    """Replay what the float model answered on the new graphs, or on their emulation."""
    reference = read_reference(bundle.file(REFERENCE))
    if manifest.graphs[0].target == "onnxruntime":
        found = parity.replay(
            OnnxRuntimeBackend(writer.preview(manifest), target="onnxruntime"), reference
        )
    else:
        with tempfile.TemporaryDirectory() as temporary:
            twin = emulate_bundle(emulation or Path(temporary) / "twin", bundle, models)
            found = parity.replay(OnnxRuntimeBackend(twin, target="canonical"), reference)
    if found.max_relative >= parity.NO_NUMBER:
        raise ExportError(
            f"parity: the {manifest.precision} graphs answer no numbers; the bundle was not written"
        )
    return found
