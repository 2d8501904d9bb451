"""Graphs for TensorRT out of a float bundle's canonical ones: masks, integers, half precision."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from seq2edge.bundle.manifest import Role
from seq2edge.export.passes.drop_alignment import DropAlignment
from seq2edge.export.passes.length_to_mask import LengthToMask
from seq2edge.export.passes.scale_queries import ScaleQueries
from seq2edge.export.passes.split_heads import SplitHeads
from seq2edge.files.progress import PartProgress
from seq2edge.quantize.calibration import Calibration, TensorKey
from seq2edge.quantize.onnxruntime_graphs import QuantizedGraphs
from seq2edge.quantize.passes.block_weights import QuantizedWeights
from seq2edge.quantize.passes.dequantized_weights import DequantizedWeights, ScaledWeights
from seq2edge.quantize.passes.half_precision import (
    LARGEST,
    HalfPrecisionWeights,
    ToHalfPrecision,
)
from seq2edge.quantize.passes.smooth import Smooth
from seq2edge.quantize.ranges import InputStats, of_role
from seq2edge.quantize.recipes import Recipe

TYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
MARGIN = 4.0  # other inputs may give values this many times as large as the examples did
SMALLEST_NORMAL = 2.0**-14  # below it float16 loses digits

Largest = dict[TensorKey, float]


def quantize_graphs(
    models: dict[Role, ir.Model],
    weights: QuantizedWeights,
    recipe: Recipe,
    stats: InputStats,
    calibration: Calibration | None,
    progress: PartProgress = lambda _: None,
) -> QuantizedGraphs:
    """Change a float bundle's canonical graphs as the recipe says, and the inputs' statistics.

    `weights` are the recipe's, and `calibration` what the values' ranges are known from, where it
    needs them.
    """
    dtype = TYPES[recipe.activations]
    largest: Largest = {}
    if calibration is not None:
        largest = _smoothed(find_largest(calibration, models, progress), stats)
    beyond = {key: size for key, size in largest.items() if _exceeds(size, dtype)}
    scaled, halves = ScaledWeights(weights, recipe.activations), HalfPrecisionWeights(dtype)
    formats: dict[str, str] = {}
    for role, model in models.items():
        if stats.factors:
            Smooth(of_role(stats.factors, role), weights.tables)(model)
        DropAlignment()(model)
        LengthToMask()(model)
        queries, heads = ScaleQueries(), SplitHeads()
        queries(model)
        heads(model)
        integers = DequantizedWeights(scaled, of_role(stats.ranges, role))
        integers(model)
        keep_float32 = set(of_role(beyond, role))
        moved = {**heads.moved, **queries.moved}
        keep_float32 |= {new for new, old in moved.items() if old in keep_float32}
        ToHalfPrecision(halves, frozenset(keep_float32))(model)
        for name, text in integers.changed.items():
            formats[f"{role}: {name}"] = recipe.activations if text == "float32" else text
    return QuantizedGraphs(
        models=models,
        formats=formats,
        float32_values={f"{role}: {name}": size for (role, name), size in beyond.items()},
    )


def find_largest(
    calibration: Calibration,
    models: Mapping[Role, ir.Model],
    progress: PartProgress = lambda _: None,
) -> Largest:
    """The largest absolute value of every float tensor on the examples."""
    largest: Largest = {}
    names: dict[Role, list[str]] = {
        role: [
            str(value.name)
            for node in model.graph
            for value in node.outputs
            if value.dtype == ir.DataType.FLOAT
        ]
        for role, model in models.items()
    }

    def on_tensor(role: Role, name: str, value: object) -> None:
        size = float(value)  # type: ignore[arg-type]
        largest[role, name] = max(largest.get((role, name), 0.0), size)

    calibration.observe(names, on_tensor, progress, target="canonical", largest=True)
    return largest


def _smoothed(largest: Largest, stats: InputStats) -> Largest:
    """The same for graphs with smoothing: a smoothed value has the name from then on."""
    smoothed = dict(largest)
    for key in stats.factors:
        role, name = key
        smoothed[role, f"{name}.rough"] = largest[key]
        smoothed[key] = stats.ranges.get(key, largest[key])
    return smoothed


def _exceeds(size: float, dtype: ir.DataType) -> bool:
    """Whether values up to that size are too large, or all too small, for the type.

    Infinity is meant to be it, in a mask, and every type has it.
    """
    if dtype != ir.DataType.FLOAT16 or not math.isfinite(size):
        return False
    return size * MARGIN > LARGEST[dtype] or 0 < size < SMALLEST_NORMAL
