"""Models of one node, run before and after they are lowered to opset 18."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from seq2edge.export.passes.lower_to_opset18 import LowerToOpset18


def value_of(name, shape, dtype):
    """A graph's input."""
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def model_of(node, inputs, outputs):
    """One node as a model; `outputs` are (shape, type) of its results, opset 24."""
    for index, (output, (shape, dtype)) in enumerate(zip(node.outputs, outputs, strict=True)):
        output.name, output.shape = f"result_{index}", ir.Shape(shape)
        output.type = ir.TensorType(dtype)
    graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"": 24}, name="g")
    return ir.Model(graph, ir_version=10)


def run(model, feeds):
    """Every output of a valid model."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


FLOATS = {"float32": (ir.DataType.FLOAT, 1e-5), "float16": (ir.DataType.FLOAT16, 4e-3)}


def compare(model, feeds, dtype="float32", scale=1.0):
    """The same numbers before and after the pass; returns them."""
    wanted = run(model, feeds)
    LowerToOpset18()(model)
    assert model.opset_imports[""] == 18
    found = run(model, feeds)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        ours, theirs = ours.astype(np.float32), theirs.astype(np.float32)  # noqa: PLW2901
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, theirs, atol=FLOATS[dtype][1] * scale, rtol=0)
    return found


def drawn(model, dtype, **sizes):
    """Random numbers for every input of a model."""
    rng = np.random.default_rng(2)
    return {
        value.name: rng.standard_normal(
            [n if isinstance(n, int) else sizes[n.value] for n in value.shape]
        ).astype(dtype)
        for value in model.graph.inputs
    }
