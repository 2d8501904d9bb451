"""Graphs whose embedding is their LM head too, of any size: their weights lie inside the file."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_graph(path, *, vocab=56, width=64, layers=4, dtype=np.float16):
    """A table that is looked up in and multiplied with, and square products between."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    rng = np.random.default_rng(0)
    weights = [("table", (vocab, width)), *((f"w{i}", (width, width)) for i in range(layers))]
    arrays = {name: rng.standard_normal(shape).astype(dtype) / 8 for name, shape in weights}
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "input_ids"], ["h0"], name="look_up"),
        *(node("MatMul", [f"h{i}", f"w{i}"], [f"h{i + 1}"], name=f"p{i}") for i in range(layers)),
        node("Transpose", ["table"], ["head"], name="turn", perm=[1, 0]),
        node("MatMul", [f"h{layers}", "head"], ["logits"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "source"])],
        [helper.make_tensor_value_info("logits", kind, ["batch", "source", vocab])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 24)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def write_integers(path, *, vocab=56, width=64):
    """The same with an 8-bit table and one 4-bit product, behind their scales."""
    int8 = helper.make_tensor("t", TensorProto.INT8, [vocab, width], bytes(vocab * width), raw=True)
    packed = bytes(width * width // 2)
    int4 = helper.make_tensor("w", TensorProto.INT4, [width, width], packed, raw=True)
    scale = numpy_helper.from_array(np.float16(1), "s")
    nodes = [
        helper.make_node("DequantizeLinear", ["t", "s"], ["table"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["weight"]),
        helper.make_node("Gather", ["table", "input_ids"], ["h0"]),
        helper.make_node("MatMul", ["h0", "weight"], ["h1"]),
        helper.make_node("Gemm", ["h1", "table"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT16, ["batch", vocab])],
        [int8, int4, scale],
    )
    onnx.save(helper.make_model(graph), path)
    return path
