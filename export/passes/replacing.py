"""Putting nodes in the place of others, and removing what they leave behind."""

from __future__ import annotations

import onnx_ir as ir


def insert_behind(graph: ir.Graph, value: ir.Value, *nodes: ir.Node) -> None:
    """Put nodes that read a value where it is there: behind its producer, or first of all."""
    producer = value.producer()
    if producer is not None:
        graph.insert_after(producer, nodes)
    else:
        graph.insert_before(graph[0], nodes)


def drop_unused_weights(graph: ir.Graph) -> None:
    """Remove every initializer that nothing reads."""
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]


def replace_node(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    """`new` (not yet in the graph) takes the place, output name, shape and type of `old`."""
    before, after = old.outputs[0], new.outputs[0]
    after.name, after.shape, after.type = before.name, before.shape, before.type
    graph.insert_before(old, new)
    ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)
    before.name = None
    graph.remove(old, safe=True)
