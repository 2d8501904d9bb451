"""Graphs for ONNX Runtime out of a float bundle's: integer products, blocks, 8-bit caches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge.manifest import Role
from seq2edge.quantize.calibration import Calibration
from seq2edge.quantize.passes.block_weights import BlockWeights, QuantizedWeights
from seq2edge.quantize.passes.int8_cache import CACHES, Int8Cache
from seq2edge.quantize.passes.integer_products import IntegerProducts
from seq2edge.quantize.passes.sites import find_sites
from seq2edge.quantize.passes.smooth import Smooth
from seq2edge.quantize.ranges import of_role, study_inputs
from seq2edge.quantize.recipes import Options

Progress = Callable[[float], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MadeGraphs:
    """Graphs by role, what became of each weight, and values that stay float32, "role: name"."""

    models: dict[Role, ir.Model]
    forms: dict[str, str]
    float32_values: dict[str, float]


def make_graphs(
    models: dict[Role, ir.Model],
    weights: QuantizedWeights,
    options: Options,
    seen: Calibration | None,
    progress: Progress = lambda _: None,
) -> MadeGraphs:
    """Change a float bundle's onnxruntime graphs as the weights' recipe and the options say."""
    recipe = weights.recipe
    forms: dict[str, str] = {}
    sites = {role: find_sites(model.graph, weights.tables) for role, model in models.items()}
    study = study_inputs(seen, sites, recipe, options, "onnxruntime", progress)
    caches = _cache_channels(seen, models) if options.int8_cache and seen is not None else {}
    for role, model in models.items():
        Smooth(of_role(study.factors, role), weights.tables)(model)
        changes: dict[str, str] = {}
        if recipe.inputs:
            ranges = of_role(study.ranges, role) if recipe.inputs == "static" else None
            products = IntegerProducts(weights.tables, ranges, options.finer)
            products(model)
            changes |= products.changed
        blocks = BlockWeights(weights)
        blocks(model)
        Int8Cache(caches)(model) if caches else None
        changes |= blocks.changed
        forms |= {f"{role}: {name}": form for name, form in changes.items()}
    return MadeGraphs(models=models, forms=forms, float32_values={})


def _cache_channels(
    seen: Calibration, models: dict[Role, ir.Model]
) -> dict[str, NDArray[np.float32]]:
    """The largest value of every channel of every cache, (kv_heads, head_dim) by output."""
    found: dict[str, NDArray[np.float32]] = {}

    def see(_: Role, name: str, values: NDArray[Any]) -> None:
        most = np.abs(values).max(axis=(0, 2))
        found[name] = np.maximum(found[name], most) if name in found else most

    outputs = [str(value.name) for value in models["decoder"].graph.outputs]
    seen.observe({"decoder": [name for name in outputs if name.startswith(CACHES)]}, see)
    return found
