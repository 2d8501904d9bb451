"""Transposed weights become weights, and shared ones stay shared."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from seq2edge.export.passes.fold_transposes import FoldTransposes


def model(*, shared, rank=2):
    """y = x @ W^T, and z = W[ids] where the table is shared with an embedding."""
    table = np.random.default_rng(0).standard_normal((6, 4), dtype=np.float32)
    weight = ir.Value(
        name="w",
        shape=ir.Shape([6, 4]),
        type=ir.TensorType(ir.DataType.FLOAT),
        const_value=ir.tensor(table, name="w"),
    )
    x = ir.Value(
        name="x", shape=ir.Shape([2] * (rank - 1) + [4]), type=ir.TensorType(ir.DataType.FLOAT)
    )
    ids = ir.Value(name="ids", shape=ir.Shape([3]), type=ir.TensorType(ir.DataType.INT64))
    turned = ir.node("Transpose", [weight], {"perm": [1, 0]})
    product = ir.node("MatMul", [x, turned.outputs[0]])
    nodes, outputs = [turned, product], [product.outputs[0]]
    product.outputs[0].name, product.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    if shared:
        gather = ir.node("Gather", [weight, ids])
        gather.outputs[0].name, gather.outputs[0].type = "z", ir.TensorType(ir.DataType.FLOAT)
        nodes.append(gather)
        outputs.append(gather.outputs[0])
    graph = ir.Graph(
        [x, ids], outputs, nodes=nodes, initializers=[weight], opset_imports={"": 24}, name="g"
    )
    return ir.Model(graph, ir_version=10)


def run(graph, rank=2):
    """What ONNX Runtime computes."""
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString())
    x = np.random.default_rng(1).standard_normal([2] * (rank - 1) + [4], dtype=np.float32)
    return session.run(None, {"x": x, "ids": np.array([0, 5, 2])})


@pytest.mark.parametrize(("shared", "rank"), [(False, 2), (False, 3), (True, 2), (True, 3)])
def test_the_result_stays_the_same(shared, rank):
    """With a table of its own or a shared one, for two and three axes."""
    graph = model(shared=shared, rank=rank)
    before = run(graph, rank)
    FoldTransposes()(graph)
    for wanted, found in zip(before, run(graph, rank), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_shared_table_is_read_as_it_is():
    """Gemm takes the transposed table, nothing is stored twice."""
    graph = model(shared=True)
    assert FoldTransposes()(graph).modified
    assert [n.op_type for n in graph.graph] == ["Gemm", "Gather"]
    assert list(graph.graph.initializers) == ["w"]


def test_a_shared_table_of_three_axes_is_left_alone():
    """Gemm has two axes; the transpose stays, nothing is duplicated."""
    graph = model(shared=True, rank=3)
    assert not FoldTransposes()(graph).modified
    assert "Transpose" in [n.op_type for n in graph.graph]


def test_an_own_table_is_transposed_when_it_is_written():
    """Until then only the original is in memory."""
    graph = model(shared=False)
    FoldTransposes()(graph)
    (value,) = graph.graph.initializers.values()
    assert value.name == "w.transposed"
    assert isinstance(value.const_value, ir.LazyTensor)
    assert list(value.const_value.shape.numpy()) == [4, 6]
    assert [n.op_type for n in graph.graph] == ["MatMul"]
