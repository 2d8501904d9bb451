"""A graph with a product, a tied table and a table of positions, to quantize and to run."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime

from seq2edge.model.dims import Dims, StackDims
from seq2edge.runtime.backends.onnxruntime import SHIFTED_WEIGHTS, sums_may_saturate

STACK = StackDims(layers=1, heads=1, kv_heads=1, head_dim=4, hidden=4, activation="relu")
VOCAB, WIDTH = 48, 64
DIMS = Dims(width=WIDTH, vocab=VOCAB, decoder=STACK)


def constant(name, array):
    """An initializer."""
    tensor = ir.Tensor(np.asarray(array, dtype=np.float32), name=name)
    kind = ir.TensorType(ir.DataType.FLOAT)
    return ir.Value(name=name, shape=tensor.shape, type=kind, const_value=tensor)


def model(weight, table, *, inner=WIDTH):
    """y = x @ W, logits = x @ T^T, rows = T[ids], places = P[ids] with a table of positions."""
    positions = np.random.default_rng(5).standard_normal((20, inner))
    values = {
        "W": constant("W", weight),
        "T": constant("T", table),
        "P": constant("P", positions),
    }
    x = ir.Value(name="x", shape=ir.Shape(["n", inner]), type=ir.TensorType(ir.DataType.FLOAT))
    ids = ir.Value(name="ids", shape=ir.Shape(["k"]), type=ir.TensorType(ir.DataType.INT64))
    nodes = [
        ir.node("MatMul", [x, values["W"]]),
        ir.node("Gemm", [x, values["T"]], {"transB": 1}),
        ir.node("Gather", [values["T"], ids]),
        ir.node("Gather", [values["P"], ids]),
    ]
    outputs = []
    for node, name in zip(nodes, ("y", "logits", "rows", "places"), strict=True):
        node.outputs[0].name = name
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        outputs.append(node.outputs[0])
    graph = ir.Graph(
        [x, ids],
        outputs,
        nodes=nodes,
        initializers=list(values.values()),
        opset_imports={"": 21},
        name="g",
    )
    return ir.Model(graph, ir_version=10)


def biased(weight, table):
    """The same with something large added to the logits, as the Gemm's own addend."""
    made = model(weight, table)
    gemm = next(node for node in made.graph if node.op_type == "Gemm")
    addend = constant("bias", 100 * random(VOCAB, seed=3))
    made.graph.register_initializer(addend)
    gemm.resize_inputs(3)
    gemm.replace_input_with(2, addend)
    return made


def random(*shape, seed=0):
    """Reproducible values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(any_model, x, settings=(), ids=(3, 0, 11)):
    """All outputs by name, of a session as the backend opens it but for these settings."""
    data = ir.to_proto(any_model).SerializeToString()
    options = onnxruntime.SessionOptions()
    usual = {SHIFTED_WEIGHTS: str(int(sums_may_saturate()))}
    for name, value in {**usual, **dict(settings)}.items():
        options.add_session_config_entry(name, value)
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"x": x, "ids": np.array(ids)}), strict=True))
