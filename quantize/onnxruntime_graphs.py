"""Graphs for ONNX Runtime out of a float bundle's: integer products, blocks, 8-bit caches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge.bundle import Bundle
from seq2edge.bundle.contract import PRESENT
from seq2edge.bundle.graph_check import checked_graph
from seq2edge.bundle.manifest import GraphFlavour, Role
from seq2edge.errors import BundleError
from seq2edge.export.stored_graph import load_graph
from seq2edge.quantize.calibration import Calibration
from seq2edge.quantize.passes.block_weights import BlockWeights, QuantizedWeights
from seq2edge.quantize.passes.int8_cache import Int8Cache
from seq2edge.quantize.passes.int8_memory import Int8Memory, cross_attentions
from seq2edge.quantize.passes.integer_products import IntegerProducts
from seq2edge.quantize.passes.smooth import Smooth
from seq2edge.quantize.ranges import InputStats, of_role
from seq2edge.quantize.recipes import Recipe

CacheChannels: TypeAlias = dict[str, NDArray[np.float32]]  # (kv_heads, head_dim) by output


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizedGraphs:
    """Graphs by role, what became of each weight, and values that stay float32, "role: name"."""

    models: dict[Role, ir.Model]
    formats: dict[str, str]
    float32_values: dict[str, float]


def read_graphs(bundle: Bundle, target: GraphFlavour) -> dict[Role, ir.Model]:
    """A bundle's graphs of that kind by role. Raises BundleError where it has none."""
    graphs = [graph for graph in bundle.manifest.graphs if graph.target == target]
    if not graphs:
        raise BundleError(f"{bundle.path}: has no {target} graphs, export the checkpoint again")
    return {graph.role: load_graph(checked_graph(bundle, graph)) for graph in graphs}


def quantize_graphs(
    models: dict[Role, ir.Model],
    weights: QuantizedWeights,
    recipe: Recipe,
    stats: InputStats,
    caches: CacheChannels,
) -> QuantizedGraphs:
    """Change a float bundle's onnxruntime graphs as the recipe says; `weights` are the recipe's.

    `stats` and `caches` are what the examples told; empty where nothing is needed of them.
    """
    formats: dict[str, str] = {}
    for role, model in models.items():
        if stats.factors:
            Smooth(of_role(stats.factors, role), weights.tables)(model)
        changed: dict[str, str] = {}
        if recipe.inputs:
            ranges = of_role(stats.ranges, role) if recipe.inputs == "static" else None
            products = IntegerProducts(weights.tables, ranges, weights.higher_precision)
            products(model)
            changed |= products.changed
        blocks = BlockWeights(weights)
        blocks(model)
        if caches:
            Int8Cache(caches)(model)
            Int8Memory(caches)(model)
        changed = blocks.changed | changed
        formats |= {f"{role}: {name}": text for name, text in changed.items()}
    return QuantizedGraphs(models=models, formats=formats, float32_values={})


def find_cache_channels(calibration: Calibration, models: Mapping[Role, ir.Model]) -> CacheChannels:
    """The largest value of every channel of every cache, and of memories that can be such."""
    channels: CacheChannels = {}

    def on_tensor(_: Role, name: str, values: NDArray[Any]) -> None:
        # (batch, kv_heads, length, head_dim)
        largest = np.abs(values).max(axis=(0, 2))
        channels[name] = np.maximum(channels[name], largest) if name in channels else largest

    graph = models["decoder"].graph
    names: dict[Role, list[str]] = {
        "decoder": [str(v.name) for v in graph.outputs if str(v.name).startswith(PRESENT)],
        "encoder": [str(v.name) for node in cross_attentions(graph) for v in node.inputs[1:3] if v],
    }
    calibration.observe(names, on_tensor)
    return channels
