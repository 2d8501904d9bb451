"""Merged queries, keys and values are split along their heads; the numbers stay the same."""

from __future__ import annotations

import numpy as np
import pytest
from small_graphs import check, graph_of, run

from seq2edge.export.passes.split_heads import SplitHeads

TEXT = """(float[b, n, 32] x)
    => (float[b, 4, n, 4] query, float[b, 2, n, 4] key, float[b, n, 8] again)
{
    q, k, v = Split <axis = -1> (x, columns)
    q4 = Reshape (q, four)
    query = Transpose <perm = [0, 2, 1, 3]> (q4)
    k4 = Reshape (k, two)
    key = Transpose <perm = [0, 2, 1, 3]> (k4)
    v4 = Reshape (v, two)
    value = Transpose <perm = [0, 2, 1, 3]> (v4)
    back = Transpose <perm = [0, 2, 1, 3]> (value)
    again = Reshape (back, flat)
}"""
SHAPES = {
    "columns": np.array([16, 8, 8]),
    "four": np.array([0, 0, 4, 4]),
    "two": np.array([0, 0, 2, 4]),
    "flat": np.array([0, 0, 8]),
}
X = np.random.default_rng(0).standard_normal((3, 5, 32)).astype(np.float32)


def test_the_numbers_and_names_stay_the_same():
    """With fewer heads of keys than of queries; one operator of each kind is left for all."""
    model = graph_of(TEXT, **SHAPES)
    before = run(model, x=X)
    change = SplitHeads()
    assert change(model).modified
    check(model)
    after = run(model, x=X)
    assert list(after) == ["query", "key", "again"]
    for name, wanted in before.items():
        np.testing.assert_array_equal(after[name], wanted)
    operators = [node.op_type for node in model.graph]
    assert operators == ["Reshape", "Transpose", "Split", "Transpose", "Reshape"]
    assert set(change.moved.values()) == {"x"}
    values = {value.name for node in model.graph for value in node.outputs}
    assert set(change.moved) < values
    assert "value" in values
    shapes = [str(node.outputs[0].shape) for node in model.graph][:3]
    assert shapes == ["[b,n,8,4]", "[b,8,n,4]", "[b,4,n,4]"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("q4 = Reshape (q, four)", "t = Relu (q)\n q4 = Reshape (t, four)"),
        ("axis = -1> (x", "axis = 1> (x"),
        ("query = Transpose <perm = [0, 2, 1, 3]>", "query = Transpose <perm = [1, 2, 0, 3]>"),
        ("again)", "again, float[b, n, 8] k)"),
    ],
)
def test_anything_else_is_left_alone(old, new):
    """A node in between, another axis, another order, a part that is an output itself."""
    text = TEXT.replace(old, new)
    if "2, 0, 3" in new:
        text = text.replace("float[b, 4, n, 4] query", "float[n, 4, b, 4] query")
    if "axis = 1" in new:
        text = text.replace("float[b, n, 32] x", "float[b, 32, n] x")
        text = text.replace("float[b, 4, n, 4] query", "float[b, 4, 16, 4] query")
    model = graph_of(text, **SHAPES)
    before = [node.op_type for node in model.graph]
    change = SplitHeads()
    assert not change(model).modified
    assert [node.op_type for node in model.graph] == before
    assert change.moved == {}
