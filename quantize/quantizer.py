"""Quantized bundles of a float one, measured against the float model's recorded answers."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import shutil
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import onnx_ir as ir

from seq2edge import __version__
from seq2edge.bundle import Bundle, BundleWriter
from seq2edge.bundle.contract import CROSS, present_of
from seq2edge.bundle.graph_check import checked_graph
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
from seq2edge.bundle.reference import REFERENCE
from seq2edge.errors import BundleError, ExportError, OptionError
from seq2edge.evaluation.examples import Example
from seq2edge.export.specialise import CANONICAL_RELEASE
from seq2edge.export.weights import WEIGHTS, WeightsWriter, dtype_name
from seq2edge.files.progress import PartProgress, Progress
from seq2edge.files.workspace import temporary_folder
from seq2edge.quantize import onnxruntime_graphs, tensorrt_graphs
from seq2edge.quantize.calibration import Calibration
from seq2edge.quantize.emulation import emulate_bundle
from seq2edge.quantize.gptq import calibrate_weights
from seq2edge.quantize.onnxruntime_graphs import (
    CacheChannels,
    QuantizedGraphs,
    find_cache_channels,
    read_graphs,
)
from seq2edge.quantize.passes import int8_cache
from seq2edge.quantize.passes.block_weights import Codes, QuantizedWeights, table_sizes
from seq2edge.quantize.passes.int8_memory import cross_attentions
from seq2edge.quantize.passes.weight_uses import WeightUse, find_weight_uses
from seq2edge.quantize.ranges import InputStats, collect_input_stats, needs_input_stats
from seq2edge.quantize.recipes import Options, QuantizedTarget, Recipe
from seq2edge.runtime import parity
from seq2edge.runtime.backends.onnxruntime import OnnxRuntimeBackend, require_release
from seq2edge.runtime.recorded import read_recorded

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


GraphReader: TypeAlias = "Callable[[GraphFlavour], dict[Role, ir.Model]]"  # reads each kind once


class Quantizer:
    """A float bundle and examples, of which quantized bundles are made.

    What the model decodes of the examples, and what is learnt from it, is kept for the next one.
    Raises BundleError for a source that is damaged, quantized already or without graphs, and
    BackendError for an ONNX Runtime that is too old to check graphs.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        calibration: Sequence[Example] = (),
        language: str | None = None,
        threads: int | None = None,
    ) -> None:
        require_release(CANONICAL_RELEASE)
        self.bundle = Bundle.open(source, hashes=True)
        self.threads = threads
        _check_source(self.bundle)
        self._examples = calibration
        self._language = language
        self._calibration: Calibration | None = None
        self._weights: dict[str, QuantizedWeights] = {}
        self._stats: dict[Hashable, InputStats] = {}
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
        if target == "tensorrt" and self.bundle.manifest.dims.samples is not None:
            raise OptionError(
                f"target: {self.bundle.path} reads samples, for which TensorRT has no graphs here; "
                "quantize for onnxruntime"
            )
        if not self._examples and (recipe.needs_examples(target) or options.needs_examples()):
            needs = f"{recipe.name} for {target} needs"
            if not recipe.needs_examples(target):
                needs = "smoothing, 8-bit memories and 8-bit caches need"
            raise OptionError(f"calibration: {needs} examples, they show how large values get")
        progress("read", 0.0)
        with BundleWriter(destination, overwrite=overwrite) as writer:
            quantized = self.quantize(recipe, target, options, progress)
            records = _write_graphs(writer, self.bundle, target, quantized.models, options)
            _copy_others(writer, self.bundle)
            manifest = self._manifest(records, recipe, options, target, quantized)
            for record in records:
                checked_graph(writer.preview(manifest), record)
            progress("compare", 0.8)
            measured, twin = _measure(self.bundle, writer, manifest, quantized.models, emulation)
            progress("write", 0.9)
            finished = writer.finish(dataclasses.replace(manifest, parity=measured.record))
        progress("write", 1.0)
        kept = [name for name, text in quantized.formats.items() if not text.startswith("int")]
        return QuantizationReport(
            source=self.bundle,
            bundle=finished,
            recipe=recipe,
            target=target,
            parity=measured,
            kept=tuple(kept) if recipe.layers is not None else (),
            emulated=twin,
        )

    @property
    def tables(self) -> set[int]:
        """The sizes of the vocabularies: a weight with as many rows is a table."""
        return table_sizes(self.bundle.manifest.dims)

    def quantize(
        self,
        recipe: Recipe,
        target: QuantizedTarget,
        options: Options = Options(),  # noqa: B008 - frozen
        progress: Progress = lambda *_: None,
    ) -> QuantizedGraphs:
        """The quantized graphs, in memory."""
        read = functools.cache(functools.partial(read_graphs, self.bundle))
        if options.int8_memory:
            _check_memories(read(target))
        calibration = None
        if _uses_examples(recipe, target, options):
            calibration = self.decode_examples(
                lambda part: progress("decode examples", 0.05 + 0.25 * part)
            )
        weights = self._quantized_weights(recipe, calibration, read, progress)
        weights = weights.with_higher_precision(options.higher_precision)

        def show(part: float) -> None:
            progress("find ranges", 0.6 + 0.15 * part)

        if target == "tensorrt":
            stats = self._input_stats(
                recipe, "canonical", options, calibration, read, lambda part: show(0.5 * part)
            )
            return tensorrt_graphs.quantize_graphs(
                read("canonical"),
                weights,
                recipe,
                stats,
                calibration,
                lambda part: show(0.5 + 0.5 * part),
            )
        stats = self._input_stats(recipe, target, options, calibration, read, show)
        caches = self._cache_channels(options, calibration, read(target))
        return onnxruntime_graphs.quantize_graphs(read(target), weights, recipe, stats, caches)

    def _cache_channels(
        self, options: Options, calibration: Calibration | None, models: dict[Role, ir.Model]
    ) -> CacheChannels:
        """Those of the caches and memories that are to have 8 bits."""
        if calibration is None or not (options.int8_cache or options.int8_memory):
            return {}
        if not self._caches:
            self._caches = find_cache_channels(calibration, models)
        return {
            name: channels
            for name, channels in self._caches.items()
            if (options.int8_memory if name.startswith(CROSS) else options.int8_cache)
        }

    def decode_examples(self, progress: PartProgress = lambda _: None) -> Calibration | None:
        """The examples as the model decodes them, None where there are none; decoded once."""
        if self._calibration is None and self._examples:
            self._calibration = Calibration(
                self.bundle,
                self._examples,
                language=self._language,
                threads=self.threads,
                progress=progress,
            )
        return self._calibration

    def _quantized_weights(
        self,
        recipe: Recipe,
        calibration: Calibration | None,
        read: GraphReader,
        progress: Progress,
    ) -> QuantizedWeights:
        """The recipe's weights, by GPTQ where it calibrates and there are examples; made once."""
        if recipe.name not in self._weights:
            dims = self.bundle.manifest.dims
            codes: Mapping[Hashable, Codes] = {}
            if calibration is not None and recipe.calibrates:
                codes = calibrate_weights(
                    calibration,
                    self._weight_uses(read("onnxruntime")),
                    QuantizedWeights(dims, recipe.formats),
                    lambda part: progress("calibrate", 0.3 + 0.3 * part),
                )
            self._weights[recipe.name] = QuantizedWeights(dims, recipe.formats, codes)
        return self._weights[recipe.name]

    def _input_stats(
        self,
        recipe: Recipe,
        target: GraphFlavour,
        options: Options,
        calibration: Calibration | None,
        read: GraphReader,
        progress: PartProgress,
    ) -> InputStats:
        """What the examples tell of products' inputs, where that is needed; measured once."""
        if calibration is None or not needs_input_stats(recipe, options):
            return InputStats()
        key = (recipe.inputs, target, options.ranges, options.smoothing)
        if key not in self._stats:
            uses = self._weight_uses(read(target))
            self._stats[key] = collect_input_stats(
                calibration, uses, recipe, options, target, progress
            )
        return self._stats[key]

    def _weight_uses(self, models: Mapping[Role, ir.Model]) -> dict[Role, list[WeightUse]]:
        return {role: find_weight_uses(model.graph, self.tables) for role, model in models.items()}

    def _manifest(
        self,
        graphs: tuple[GraphRecord, ...],
        recipe: Recipe,
        options: Options,
        target: QuantizedTarget,
        quantized: QuantizedGraphs,
    ) -> Manifest:
        """The float bundle's manifest with what was done to it; the parity is still the old."""
        bundle = self.bundle
        calibration = self._calibration if _uses_examples(recipe, target, options) else None
        raw = (bundle.path / MANIFEST).read_bytes()
        return dataclasses.replace(
            bundle.manifest,
            precision=recipe.name,  # type: ignore[arg-type]
            graphs=graphs,
            engines=(),
            quantization=QuantizationRecord(
                recipe=recipe.summary,
                method="GPTQ" if calibration and recipe.calibrates else "round to nearest",
                ranges=options.ranges if recipe.inputs == "static" else None,
                smoothing=options.smoothing,
                cache="int8" if options.int8_cache else "activations",
                memory="int8" if options.int8_memory else "activations",
                examples=len(calibration.traces) if calibration else 0,
                weights=quantized.formats,
                float32_values=quantized.float32_values,
                source_sha256=hashlib.sha256(raw).hexdigest(),
                tool_version=__version__,
                created=utc_now(),
                packages={name: importlib.metadata.version(name) for name in PACKAGES},
            ),
        )


def _uses_examples(recipe: Recipe, target: QuantizedTarget, options: Options) -> bool:
    return recipe.takes_examples(target) or options.needs_examples()


def _check_memories(models: Mapping[Role, ir.Model]) -> None:
    """Raise OptionError where no encoder memory can have 8 bits."""
    if "decoder" not in models or not any(cross_attentions(models["decoder"].graph)):
        raise OptionError(
            "int8 memory: for decoders that read an encoder by plain attention, whose heads have "
            "a multiple of 8 values; leave it out"
        )


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
        outputs = {value.name for value in model.graph.outputs}
        requires = record.requires
        if target == "tensorrt":
            requires = {"tensorrt": TENSORRT_RELEASE}
        elif (options.int8_cache or options.int8_memory) and role == "decoder":
            requires = {"onnxruntime": int8_cache.RELEASE}
        records.append(
            dataclasses.replace(
                record,
                target=target,
                file=name,
                opset=dict(model.opset_imports),
                requires=requires,
                inputs=tuple(_typed(put, model.graph.inputs) for put in record.inputs),
                outputs=tuple(
                    _typed(put, model.graph.outputs)
                    for put in (*record.outputs, *_present_memories(record.inputs))
                    if put.name in outputs
                ),
            )
        )
    return tuple(records)


def _present_memories(inputs: Iterable[TensorRecord]) -> Iterator[TensorRecord]:
    """What a decoder gives of encoder memories that are caches to it."""
    for put in inputs:
        if put.name.startswith(CROSS):
            yield dataclasses.replace(put, name=present_of(put.name))


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
    reference = read_recorded(bundle)
    twin: Bundle | None = None
    if manifest.graphs[0].target == "onnxruntime":
        measured = parity.replay(
            OnnxRuntimeBackend(writer.preview(manifest), target="onnxruntime"), reference
        )
    else:
        with temporary_folder() as temporary:
            twin = emulate_bundle(emulation or temporary / "twin", bundle, models)
            measured = parity.replay(OnnxRuntimeBackend(twin, target="canonical"), reference)
    if measured.max_relative >= parity.NO_NUMBER:
        raise ExportError(
            f"parity: the {manifest.precision} graphs answer NaN or infinity; "
            "the bundle was not written"
        )
    return measured, twin if emulation is not None else None
