"""Graphs for TensorRT out of a float bundle's canonical ones: masks, integers, half precision."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from seq2edge.bundle import Bundle
from seq2edge.bundle.manifest import Role
from seq2edge.export.passes.length_to_mask import LengthToMask
from seq2edge.export.passes.scale_queries import ScaleQueries
from seq2edge.export.passes.split_heads import SplitHeads
from seq2edge.files.progress import PartProgress
from seq2edge.quantize.calibration import Calibration
from seq2edge.quantize.onnxruntime_graphs import MadeGraphs, read_graphs
from seq2edge.quantize.passes.block_weights import QuantizedWeights
from seq2edge.quantize.passes.dequantized_weights import DequantizedWeights, ScaledWeights
from seq2edge.quantize.passes.narrow import LARGEST, Narrow, NarrowedWeights
from seq2edge.quantize.passes.smooth import Smooth
from seq2edge.quantize.ranges import InputStudy, Place, of_role

TYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
MARGIN = 4.0  # other inputs may give values this many times as large as the examples did
LEAST = 2.0**-14  # below it float16 loses digits

Largest = dict[Place, float]


def make_graphs(
    bundle: Bundle,
    weights: QuantizedWeights,
    study: InputStudy,
    seen: Calibration | None,
    progress: PartProgress = lambda _: None,
) -> MadeGraphs:
    """Convert every canonical graph as the weights' recipe says, and what was learnt of its inputs.

    `seen` is what the recipe needs to know the values' ranges from. Raises BundleError where the
    bundle has no canonical graphs.
    """
    recipe = weights.recipe
    models = read_graphs(bundle, "canonical")
    dtype = TYPES[recipe.activations]
    largest = {}
    if seen is not None:
        largest = find_largest(seen, models, progress)
        for role, name in study.factors:  # the name is the smoothed value's from now on
            largest[role, f"{name}.rough"] = largest[role, name]
            largest[role, name] = study.ranges.get((role, name), largest[role, name])
    wide = {key: size for key, size in largest.items() if _is_wide(size, dtype)}
    scaled, narrowed = ScaledWeights(weights), NarrowedWeights(dtype)
    forms: dict[str, str] = {}
    for role, model in models.items():
        Smooth(of_role(study.factors, role), weights.tables)(model)
        LengthToMask()(model)
        queries, heads = ScaleQueries(), SplitHeads()
        queries(model)
        heads(model)
        change = DequantizedWeights(scaled, of_role(study.ranges, role))
        change(model)
        names = set(of_role(wide, role))
        moved = {**heads.moved, **queries.moved}
        names |= {new for new, old in moved.items() if old in names}
        Narrow(narrowed, frozenset(names))(model)
        for name, form in change.changed.items():
            forms[f"{role}: {name}"] = recipe.activations if form == "float32" else form
    return MadeGraphs(
        models=models,
        forms=forms,
        float32_values={f"{role}: {name}": size for (role, name), size in wide.items()},
    )


def find_largest(
    seen: Calibration, models: Mapping[Role, ir.Model], progress: PartProgress = lambda _: None
) -> Largest:
    """The largest absolute value of every float tensor on the examples."""
    found: Largest = {}
    names: dict[Role, list[str]] = {
        role: [
            str(value.name)
            for node in model.graph
            for value in node.outputs
            if value.dtype == ir.DataType.FLOAT
        ]
        for role, model in models.items()
    }

    def see(role: Role, name: str, value: object) -> None:
        found[role, name] = max(found.get((role, name), 0.0), float(value))  # type: ignore[arg-type]

    seen.observe(names, see, progress, target="canonical", largest=True)
    return found


def _is_wide(size: float, dtype: ir.DataType) -> bool:
    """Whether values up to that size are too large, or all too small, for the type.

    Infinity is meant to be it, in a mask, and every type has it.
    """
    if dtype != ir.DataType.FLOAT16 or not math.isfinite(size):
        return False
    return size * MARGIN > LARGEST[dtype] or 0 < size < LEAST
