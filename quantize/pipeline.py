"""From a float bundle to a quantized one, measured against the float model's recorded answers."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import shutil
import tempfile
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

import seq2edge
from seq2edge.bundle import Bundle, BundleWriter
from seq2edge.bundle.manifest import (
    MANIFEST,
    GraphFlavour,
    GraphRecord,
    Manifest,
    QuantizationRecord,
    Role,
    TensorRecord,
    utc_now,
)
from seq2edge.bundle.reference import REFERENCE, read_reference
from seq2edge.errors import BundleError, ExportError, OptionError
from seq2edge.evaluation.examples import Example
from seq2edge.export.weights import WEIGHTS, WeightsWriter, dtype_name
from seq2edge.files.progress import PartProgress, Progress
from seq2edge.quantize import onnxruntime_graphs, tensorrt_graphs
from seq2edge.quantize.calibrated import calibrate_weights
from seq2edge.quantize.calibration import Calibration
from seq2edge.quantize.emulation import emulate_bundle
from seq2edge.quantize.onnxruntime_graphs import (
    CacheChannels,
    MadeGraphs,
    find_cache_channels,
    read_graphs,
)
from seq2edge.quantize.passes import int8_cache
from seq2edge.quantize.passes.block_weights import Codes, QuantizedWeights, table_sizes
from seq2edge.quantize.passes.sites import Site, find_sites
from seq2edge.quantize.ranges import InputStudy, study_inputs
from seq2edge.quantize.recipes import Options, QuantizedTarget, Recipe, find_recipe, find_target
from seq2edge.runtime import parity
from seq2edge.runtime.backends.onnxruntime import OnnxRuntimeBackend

TENSORRT_RELEASE = "10.15"  # the oldest whose parser reads all operators of the canonical graph
PACKAGES = ("onnx-ir", "onnxruntime", "numpy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizationReport:
    """What was made of which bundle, and how far it is from the float model's recorded tokens.

    `emulated` is a TensorRT bundle's twin that runs here, where one was asked for.
    """

    source: Bundle
    bundle: Bundle
    recipe: Recipe
    target: QuantizedTarget
    parity: parity.Parity
    kept: tuple[str, ...]  # weights that stayed float
    emulated: Bundle | None = None


def quantize_bundle(
    source: str | Path,
    destination: str | Path,
    recipe: str,
    *,
    target: str | None = None,
    options: Options = Options(),  # noqa: B008 - frozen
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
    unknown recipe, target or pair of them, and for examples and options that are missing or not
    used, InputError for examples that the model cannot read, BundleError for a source that is
    damaged, quantized already or without graphs, and ExportError where the result answers no
    numbers.
    """
    chosen = find_recipe(recipe)
    aim = find_target(chosen, target)
    if calibration and not (chosen.takes_examples(aim) or options.needs_examples()):
        raise OptionError(f"calibration: {chosen.name} for {aim} uses none")
    quantizer = Quantizer(source, calibration=calibration, language=language, threads=threads)
    return quantizer.write(
        destination,
        chosen,
        target=aim,
        options=options,
        emulation=emulation,
        overwrite=overwrite,
        progress=progress,
    )


class Quantizer:
    """A float bundle and examples, of which quantized bundles are made.

    What the model decodes of the examples, and what is learnt from it, is kept for the next one.
    Raises BundleError for a source that is damaged, quantized already or without graphs.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        calibration: Sequence[Example] = (),
        language: str | None = None,
        threads: int | None = None,
    ) -> None:
        self.bundle = Bundle.open(source, hashes=True)
        self.threads = threads
        _check_source(self.bundle)
        self._examples = calibration
        self._language = language
        self._seen: Calibration | None = None
        self._weights: dict[str, QuantizedWeights] = {}
        self._studies: dict[Hashable, InputStudy] = {}
        self._caches: CacheChannels = {}

    def write(
        self,
        destination: str | Path,
        recipe: Recipe,
        *,
        target: QuantizedTarget,
        options: Options = Options(),  # noqa: B008 - frozen
        emulation: Path | None = None,
        overwrite: bool = False,
        progress: Progress = lambda *_: None,
    ) -> QuantizationReport:
        """Write a bundle by that recipe; see `quantize_bundle`."""
        options.check(recipe, target)
        if not self._examples and (recipe.needs_examples(target) or options.needs_examples()):
            asked = f"{recipe.name} for {target} needs"
            if not recipe.needs_examples(target):
                asked = "smoothing and 8-bit caches need"
            raise OptionError(f"calibration: {asked} examples, they show how large values get")
        progress("read", 0.0)
        with BundleWriter(destination, overwrite=overwrite) as writer:
            made = self.make(recipe, target, options, progress)
            records = _write_graphs(writer, self.bundle, target, made.models, options)
            _copy_others(writer, self.bundle)
            manifest = self._manifest(records, recipe, options, target, made)
            progress("compare", 0.8)
            measured, twin = _measure(self.bundle, writer, manifest, made.models, emulation)
            progress("write", 0.9)
            finished = writer.finish(dataclasses.replace(manifest, parity=measured))
        progress("write", 1.0)
        kept = tuple(name for name, form in made.forms.items() if not form.startswith("int"))
        return QuantizationReport(
            source=self.bundle,
            bundle=finished,
            recipe=recipe,
            target=target,
            parity=measured,
            kept=kept if recipe.layers is not None else (),
            emulated=twin,
        )

    @property
    def tables(self) -> set[int]:
        """The sizes of the vocabularies: a weight with as many rows is a table."""
        return table_sizes(self.bundle.manifest.dims)

    def make(
        self,
        recipe: Recipe,
        target: QuantizedTarget,
        options: Options = Options(),  # noqa: B008 - frozen
        progress: Progress = lambda *_: None,
    ) -> MadeGraphs:
        """The quantized graphs, in memory."""
        seen = None
        if self._uses_examples(recipe, target, options):
            seen = self.seen(lambda part: progress("decode examples", 0.05 + 0.25 * part))
        weights = self._calibrated(recipe, seen, progress).but(options.finer)

        def show(part: float) -> None:
            progress("find ranges", 0.6 + 0.15 * part)

        if target == "tensorrt":
            study = self._study(weights, "canonical", options, seen, lambda part: show(0.5 * part))
            return tensorrt_graphs.make_graphs(
                self.bundle, weights, study, seen, lambda part: show(0.5 + 0.5 * part)
            )
        study = self._study(weights, target, options, seen, show)
        models = read_graphs(self.bundle, target)
        if options.int8_cache and seen is not None and not self._caches:
            self._caches = find_cache_channels(seen, models)
        caches = self._caches if options.int8_cache else {}
        return onnxruntime_graphs.make_graphs(models, weights, options, study, caches)

    def seen(self, progress: PartProgress = lambda _: None) -> Calibration | None:
        """The examples as the model decoded them, None where there are none."""
        if self._seen is None and self._examples:
            self._seen = Calibration(
                self.bundle,
                self._examples,
                language=self._language,
                threads=self.threads,
                progress=progress,
            )
        return self._seen

    def _uses_examples(self, recipe: Recipe, target: QuantizedTarget, options: Options) -> bool:
        return recipe.takes_examples(target) or options.needs_examples()

    def _calibrated(
        self, recipe: Recipe, seen: Calibration | None, progress: Progress
    ) -> QuantizedWeights:
        """The recipe's weights, calibrated where it calibrates; made once."""
        if recipe.name not in self._weights:
            dims = self.bundle.manifest.dims
            codes: Mapping[Hashable, Codes] = {}
            if seen is not None and recipe.calibrates:
                plan = QuantizedWeights(dims, recipe)
                sites = _sites(read_graphs(self.bundle, "onnxruntime"), plan)
                codes = calibrate_weights(
                    seen, sites, plan, lambda part: progress("calibrate", 0.3 + 0.3 * part)
                )
            self._weights[recipe.name] = QuantizedWeights(dims, recipe, codes)
        return self._weights[recipe.name]

    def _study(
        self,
        weights: QuantizedWeights,
        target: GraphFlavour,
        options: Options,
        seen: Calibration | None,
        progress: PartProgress,
    ) -> InputStudy:
        """What the examples tell of products' inputs; learnt once."""
        key = (weights.recipe.inputs, target, options.ranges, options.smoothing)
        if key not in self._studies:
            sites = _sites(read_graphs(self.bundle, target), weights)
            found = study_inputs(seen, sites, weights.recipe, options, target, progress)
            self._studies[key] = found
        return self._studies[key]

    def _manifest(
        self,
        graphs: tuple[GraphRecord, ...],
        recipe: Recipe,
        options: Options,
        target: QuantizedTarget,
        made: MadeGraphs,
    ) -> Manifest:
        bundle, seen = self.bundle, self._seen
        used = seen is not None and self._uses_examples(recipe, target, options)
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
                method="GPTQ" if used and recipe.calibrates else "round to nearest",
                ranges=options.ranges if recipe.inputs == "static" else None,
                smoothing=options.smoothing,
                cache="int8" if options.int8_cache else "activations",
                examples=len(seen.traces) if used and seen is not None else 0,
                weights=made.forms,
                float32_values=made.float32_values,
                source_sha256=hashlib.sha256(raw).hexdigest(),
                tool_version=seq2edge.__version__,
                created=utc_now(),
                packages={name: importlib.metadata.version(name) for name in PACKAGES},
            ),
        )


def _sites(models: Mapping[Role, ir.Model], weights: QuantizedWeights) -> dict[Role, list[Site]]:
    return {role: find_sites(model.graph, weights.tables) for role, model in models.items()}


def _check_source(bundle: Bundle) -> None:
    precision = bundle.manifest.precision
    if precision != "float32":
        raise BundleError(
            f"{bundle.path}: quantized already ({precision}), quantize the float bundle instead"
        )
    targets = {graph.target for graph in bundle.manifest.graphs}
    if "onnxruntime" not in targets or REFERENCE not in bundle.manifest.files:
        raise BundleError(
            f"{bundle.path}: has no graphs for onnxruntime or no {REFERENCE}, "
            "export the checkpoint again"
        )


def _write_graphs(
    writer: BundleWriter,
    bundle: Bundle,
    target: QuantizedTarget,
    models: Mapping[Role, ir.Model],
    options: Options,
) -> tuple[GraphRecord, ...]:
    """Write all graphs over one weights file."""
    WeightsWriter(writer.path(WEIGHTS)).write(models.values())
    records = []
    for role, model in models.items():
        name = f"{role}.{target}.onnx"
        ir.save(model, writer.path(name))
        record = bundle.graph(role, "canonical" if target == "tensorrt" else target)
        requires = record.requires
        if target == "tensorrt":
            requires = {"tensorrt": TENSORRT_RELEASE}
        elif options.int8_cache and role == "decoder":
            requires = {"onnxruntime": int8_cache.RELEASE}
        records.append(
            dataclasses.replace(
                record,
                target=target,
                file=name,
                opset=dict(model.opset_imports),
                requires=requires,
                inputs=tuple(_typed(put, model.graph.inputs) for put in record.inputs),
                outputs=tuple(_typed(put, model.graph.outputs) for put in record.outputs),
            )
        )
    return tuple(records)


def _typed(record: TensorRecord, values: Sequence[ir.Value]) -> TensorRecord:
    """The record with the type that the graph now gives that tensor."""
    value = next(value for value in values if value.name == record.name)
    return dataclasses.replace(record, dtype=dtype_name(value))


def _copy_others(writer: BundleWriter, bundle: Bundle) -> None:
    """Tokenizers and recorded answers; engines were compiled for the float graphs."""
    manifest = bundle.manifest
    own = {graph.file for graph in manifest.graphs} | {WEIGHTS}
    for engine in manifest.engines:
        own |= {engine.file, engine.sidecar}
    for name in manifest.files:
        if name not in own:
            shutil.copyfile(bundle.file(name), writer.path(name))


def _measure(
    bundle: Bundle,
    writer: BundleWriter,
    manifest: Manifest,
    models: Mapping[Role, ir.Model],
    emulation: Path | None,
) -> tuple[parity.Parity, Bundle | None]:
    """Replay what the float model answered on the new graphs, or on their emulation."""
    reference = read_reference(bundle.file(REFERENCE))
    twin: Bundle | None = None
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
    return found, twin if emulation is not None else None
