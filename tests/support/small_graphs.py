"""Graphs of a few nodes, written as ONNX text."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

HEADER = '<ir_version: 10, opset_import: ["" : 24]>'


def graph_of(text: str, **weights: NDArray[Any]) -> ir.Model:
    """The graph of a text `(inputs) => (outputs) { nodes }` with these weights, all types known."""
    proto = onnx.parser.parse_model(f"{HEADER} g {text}")
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for number, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


def check(model: ir.Model) -> None:
    """Raise what the ONNX checker finds, wrong types among it."""
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def run(model: ir.Model, **inputs: Any) -> dict[str, NDArray[Any]]:
    """All outputs by name, as ONNX Runtime computes them on the CPU."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feed = {name: np.asarray(array) for name, array in inputs.items()}
    return dict(zip(names, session.run(None, feed), strict=True))


def dtypes(model: ir.Model) -> dict[str, ir.DataType | None]:
    """The type of every input, weight and node's result, by name."""
    graph = model.graph
    values = [*graph.inputs, *graph.initializers.values()]
    values += [value for node in graph for value in node.outputs]
    return {str(value.name): value.dtype for value in values}
