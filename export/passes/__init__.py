"""Graph edits that specialise the canonical graph for a target, one file each."""

from __future__ import annotations

import onnx_ir as ir


def source_of(value: ir.Value | None, *operators: str) -> ir.Value | None:
    """Walk back through producers of these types, last one first, to the first one's input."""
    for operator in operators:
        node = value.producer() if value is not None else None
        if node is None or node.op_type != operator:
            return None
        value = node.inputs[0]
    return value


def single_consumer(value: ir.Value, operator: str) -> ir.Node | None:
    """The only node that reads this value, if it is of that type."""
    consumers = list(value.consumers())
    if len(consumers) != 1 or consumers[0].op_type != operator or value.is_graph_output():
        return None
    return consumers[0]


def constant(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """An initializer of that name, made on first use."""
    if name not in graph.initializers:
        value = ir.Value(
            name=name,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        graph.register_initializer(value)
    return graph.initializers[name]
