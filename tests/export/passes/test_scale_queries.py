"""Attentions to a cache that do not scale their scores get smaller queries and a scale."""

from __future__ import annotations

import numpy as np
import pytest
from small_graphs import check, graph_of, run

from seq2edge.export.passes.scale_queries import ScaleQueries

TEXT = """(FLOAT[b, 4, n, 8] query, FLOAT[b, 2, c, 8] past, FLOAT[b, 2, n, 8] key, int64[b] length)
    => (FLOAT[b, 4, n, 8] found, FLOAT[b, 2, c, 8] present)
{
    present = TensorScatter <axis = 2, mode = "linear"> (past, key, length)
    found = Attention <scale = 1.0> (query, present, present)
}"""
RNG = np.random.default_rng(0)


def inputs_of(dtype):
    """Two rows with two new keys, behind one and three old ones of five."""
    shapes = {"query": (2, 4, 2, 8), "past": (2, 2, 5, 8), "key": (2, 2, 2, 8)}
    values = {name: RNG.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    return {**values, "length": np.array([1, 3])}


@pytest.mark.parametrize(("kind", "dtype"), [("float", np.float32), ("float16", np.float16)])
def test_the_scores_stay_exactly_the_same(kind, dtype):
    """A quarter of the queries and a scale of four, in the query's type; old names are kept."""
    model, inputs = graph_of(TEXT.replace("FLOAT", kind)), inputs_of(dtype)
    before = run(model, **inputs)
    change = ScaleQueries()
    assert change(model).modified
    check(model)
    after = run(model, **inputs)
    assert list(after) == ["found", "present"]
    for name, wanted in before.items():
        np.testing.assert_array_equal(after[name], wanted)
    operators = [node.op_type for node in model.graph]
    assert operators == ["TensorScatter", "Mul", "Attention"]
    (attention,) = [node for node in model.graph if node.op_type == "Attention"]
    assert attention.attributes["scale"].as_float() == 4.0
    assert change.moved == {attention.inputs[0].name: "query"}
    assert not ScaleQueries()(model).modified, "a second time"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("scale = 1.0", "scale = 0.125"),
        ("<scale = 1.0>", ""),
        ("(query, present, present)", "(query, past, past)"),
    ],
)
def test_anything_else_is_left_alone(old, new):
    """Another scale, the operator's own, and keys that were not just written."""
    model = graph_of(TEXT.replace("FLOAT", "float").replace(old, new))
    assert not ScaleQueries()(model).modified
    assert "Mul" not in [node.op_type for node in model.graph]
