"""Graphs for ONNX Runtime out of a float bundle's: integer products, blocks, 8-bit caches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge.bundle import Bundle
from seq2edge.bundle.manifest import GraphFlavour, Role
from seq2edge.errors import BundleError
from seq2edge.quantize.calibration import Calibration
from seq2edge.quantize.passes.block_weights import BlockWeights, QuantizedWeights
from seq2edge.quantize.passes.int8_cache import CACHES, Int8Cache
from seq2edge.quantize.passes.integer_products import IntegerProducts
from seq2edge.quantize.passes.smooth import Smooth
from seq2edge.quantize.ranges import InputStudy, of_role
from seq2edge.quantize.recipes import Options

CacheChannels: TypeAlias = dict[str, NDArray[np.float32]]  # (kv_heads, head_dim) by output


@dataclasses.dataclass(frozen=True, kw_only=True)
class MadeGraphs:
    """Graphs by role, what became of each weight, and values that stay float32, "role: name"."""

    models: dict[Role, ir.Model]
    forms: dict[str, str]
    float32_values: dict[str, float]


def read_graphs(bundle: Bundle, target: GraphFlavour) -> dict[Role, ir.Model]:
    """A bundle's graphs of that kind by role. Raises BundleError where it has none."""
    graphs = [graph for graph in bundle.manifest.graphs if graph.target == target]
    if not graphs:
        raise BundleError(f"{bundle.path}: has no {target} graphs, export the checkpoint again")
    return {graph.role: ir.load(bundle.file(graph.file)) for graph in graphs}


def make_graphs(
    models: dict[Role, ir.Model],
    weights: QuantizedWeights,
    options: Options,
    study: InputStudy,
    caches: CacheChannels,
) -> MadeGraphs:
    """Change a float bundle's onnxruntime graphs as the weights' recipe and the options say.

    `study` and `caches` are what the examples told; empty where nothing is needed of them.
    """
    recipe = weights.recipe
    forms: dict[str, str] = {}
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
        if caches:
            Int8Cache(caches)(model)
        changes = blocks.changed | changes
        forms |= {f"{role}: {name}": form for name, form in changes.items()}
    return MadeGraphs(models=models, forms=forms, float32_values={})


def find_cache_channels(seen: Calibration, models: Mapping[Role, ir.Model]) -> CacheChannels:
    """The largest value of every channel of every cache."""
    found: CacheChannels = {}

    def see(_: Role, name: str, values: NDArray[Any]) -> None:
        most = np.abs(values).max(axis=(0, 2))
        found[name] = np.maximum(found[name], most) if name in found else most

    outputs = [str(value.name) for value in models["decoder"].graph.outputs]
    seen.observe({"decoder": [name for name in outputs if name.startswith(CACHES)]}, see)
    return found
