"""A decoder answers as many of each row's last tokens as it is asked for."""

from __future__ import annotations

import numpy as np
import pytest
from small_graphs import check, graph_of, run

from seq2edge.errors import ExportError
from seq2edge.export.passes.last_positions import LastPositions

TEXT = """(float[rows, new, 3] hidden, int64[rows] new_length) => (float[rows, 3] logits)
{
    count = Shape <start = 0, end = 1> (hidden)
    zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    last_axis = Constant <value_ints = [1]> ()
    squeezed = Squeeze (count)
    rows_range = Range (zero, squeezed, one)
    last = Sub (new_length, one)
    row_column = Unsqueeze (rows_range, last_axis)
    last_column = Unsqueeze (last, last_axis)
    places = Concat <axis = -1> (row_column, last_column)
    gathered = GatherND (hidden, places)
    logits = Add (gathered, bias)
}"""
BIAS = np.array([1.0, 2.0, 3.0], dtype=np.float32)


def test_lines_are_the_last_valid_tokens_in_their_order():
    """Rows of 4 and 2 valid tokens; of those that a row has not, its first one."""
    model = graph_of(TEXT, bias=BIAS)
    # What the exporter infers of such graphs.
    for node in model.graph:
        if node.op_type == "GatherND":
            node.outputs[0].shape = model.graph.outputs[0].shape
    assert LastPositions()(model).modified
    check(model)
    assert [str(axis) for axis in model.graph.outputs[0].shape] == ["lines", "3"]
    hidden = np.random.default_rng(0).standard_normal((2, 4, 3)).astype(np.float32)
    inputs = {"hidden": hidden, "new_length": np.array([4, 2])}
    for count, places in ((1, [[3], [1]]), (2, [[2, 3], [0, 1]]), (3, [[1, 2, 3], [0, 0, 1]])):
        logits = run(model, **inputs, last_positions=np.array([count]))["logits"]
        expected = np.concatenate([hidden[row, place] for row, place in enumerate(places)]) + BIAS
        np.testing.assert_array_equal(logits, expected)


def test_a_graph_that_gathers_otherwise_is_refused():
    """Nothing is guessed about a graph that is not the canonical one."""
    model = graph_of("(float[rows, 3] hidden) => (float[rows, 3] logits) {logits = Neg (hidden)}")
    with pytest.raises(ExportError, match="does not gather each row's last hidden state"):
        LastPositions()(model)
