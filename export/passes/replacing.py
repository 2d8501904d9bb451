"""Putting one node in the place of another."""

from __future__ import annotations

import onnx_ir as ir


def replace_node(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    """`new` (not yet in the graph) takes the place, output name, shape and type of `old`."""
    before, after = old.outputs[0], new.outputs[0]
    after.name, after.shape, after.type = before.name, before.shape, before.type
    graph.insert_before(old, new)
    ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)
    before.name = None
    graph.remove(old, safe=True)
