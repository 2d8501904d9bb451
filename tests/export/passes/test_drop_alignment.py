"""Engines are built without alignments: the output goes, and what is computed for it alone."""

from __future__ import annotations

from small_graphs import check, graph_of

from seq2edge.export.passes.drop_alignment import DropAlignment

TEXT = """(float[rows, 4] hidden) => (float[rows, 4] logits, float[rows, 4] {name})
{{
    shared = Neg (hidden)
    logits = Exp (shared)
    {name} = Softmax (shared)
}}"""


def test_the_output_goes_with_what_is_computed_for_it():
    """And nothing that others read."""
    model = graph_of(TEXT.format(name="alignment"))
    assert DropAlignment()(model).modified
    check(model)
    assert [value.name for value in model.graph.outputs] == ["logits"]
    assert [node.op_type for node in model.graph] == ["Neg", "Exp"]


def test_a_graph_without_it_is_left_alone():
    """Whatever its outputs are called."""
    model = graph_of(TEXT.format(name="present"))
    assert not DropAlignment()(model).modified
    assert len(model.graph.outputs) == 2
