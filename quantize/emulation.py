"""Running a half-precision graph where no processor computes in that type.

The emulated graph computes in float32 and rounds the result of every node to the type that it has
in the real one, overflow included. Inner sums stay float32, as in the matrix units of GPUs.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from seq2edge.bundle import Bundle, BundleWriter
from seq2edge.bundle.manifest import GraphRecord, Role
from seq2edge.export.weights import WEIGHTS, WeightsWriter

FLOAT = ir.DataType.FLOAT
MOVES = frozenset(
    "Concat Expand Gather Identity Reshape Slice Split Squeeze TensorScatter Transpose Unsqueeze"
    " Where".split()
)  # their results hold what was rounded already
NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def emulate_bundle(folder: Path, source: Bundle, models: Mapping[Role, ir.Model]) -> Bundle:
    """A float32 bundle in `folder` that answers as `models` would; they are left as they are."""
    graphs = [
        _record(graph, models[graph.role])
        for graph in source.manifest.graphs
        if graph.target == "canonical" and graph.role in models
    ]
    manifest = dataclasses.replace(
        source.manifest, graphs=tuple(graphs), engines=(), precision="float32", quantization=None
    )
    own = {graph.file for graph in source.manifest.graphs} | {WEIGHTS}
    with BundleWriter(folder, overwrite=True) as writer:
        emulated = {role: model.clone() for role, model in models.items()}
        for model in emulated.values():
            emulate(model)
        WeightsWriter(writer.path(WEIGHTS)).write(emulated.values())
        for graph in graphs:
            ir.save(emulated[graph.role], writer.path(graph.file))
        for name in source.manifest.files:
            if name not in own:
                shutil.copyfile(source.file(name), writer.path(name))
        return writer.finish(manifest)


def _record(graph: GraphRecord, model: ir.Model) -> GraphRecord:
    """The canonical graph's without what the model has not, an alignment."""
    names = {value.name for value in model.graph.outputs}
    return dataclasses.replace(graph, outputs=tuple(t for t in graph.outputs if t.name in names))


def emulate(model: ir.Model) -> None:
    """Change the graph in place; its inputs and outputs become float32."""
    graph = model.graph
    for value in graph.initializers.values():
        if value.dtype in NARROW and value.const_value is not None:
            array = value.const_value.numpy().astype(np.float32)
            value.const_value = ir.Tensor(array, name=value.name)
            value.type = ir.TensorType(FLOAT)
    for value in graph.inputs:
        if value.dtype in NARROW:
            value.type = ir.TensorType(FLOAT)
    for node in list(graph):
        if node.op_type == "Cast" and node.attributes["to"].as_int() in {t.value for t in NARROW}:
            node.attributes["to"] = ir.AttrInt64("to", FLOAT.value)
        for value in node.outputs:
            if value.dtype in NARROW and node.op_type in MOVES:
                value.type = ir.TensorType(FLOAT)
            elif value.dtype in NARROW:
                _round(graph, node, value)


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Put a pair of casts behind the value, whose name the rounded one takes."""
    assert value.dtype is not None
    down = ir.node("Cast", [value], {"to": value.dtype.value})
    down.outputs[0].type = ir.TensorType(value.dtype)
    up = ir.node("Cast", [down.outputs[0]], {"to": FLOAT.value})
    rounded = up.outputs[0]
    rounded.type = value.type = ir.TensorType(FLOAT)
    rounded.shape = value.shape
    rounded.name, value.name = value.name, f"{value.name}.exact"
    ir.convenience.replace_all_uses_with(value, rounded, replace_graph_outputs=True)
    down.replace_input_with(0, value)
    graph.insert_after(node, [down, up])
