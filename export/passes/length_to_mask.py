"""Say in masks what the canonical graph says in lengths, for TensorRT.

TensorRT's parser drops the lengths of `Attention` with a warning, and the padding would be seen.

1. `Attention` with lengths and no mask gets a boolean mask (batch, 1, queries, source).
2. Where it has an additive bias, that becomes hidden where the mask is false.

The mask of the same lengths is computed once a graph. Requires the canonical graph; ensures that no
`Attention` reads lengths. Equal to the canonical graph for lengths of at least 1.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from seq2edge.export.passes import constant

MASK, LENGTHS = 3, 6  # inputs of Attention
KEYS_AXIS = 2
HIDDEN = -30000.0  # of a bias; every half-precision type holds it, and exp() of it is 0


class LengthToMask(ir.passes.InPlacePass):
    """See the module's rules."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply all rules everywhere."""
        graph = model.graph
        masks: dict[str, ir.Value] = {}
        found = [n for n in graph if n.op_type == "Attention" and len(n.inputs) > LENGTHS]
        for node in found:
            lengths, keys, bias = node.inputs[LENGTHS], node.inputs[1], node.inputs[MASK]
            if lengths is None or keys is None:
                continue
            name = str(lengths.name)
            if name not in masks:
                masks[name] = _mask(graph, node, lengths, keys)
            mask = masks[name]
            if bias is not None:
                mask = _hide(graph, node, mask, bias)
            node.resize_inputs(LENGTHS)
            node.replace_input_with(MASK, mask)
        return ir.passes.PassResult(model, modified=bool(found))


def _mask(graph: ir.Graph, before: ir.Node, lengths: ir.Value, keys: ir.Value) -> ir.Value:
    """(batch, 1, queries, source), true where a source has a token.

    ONNX Runtime wants the axis of queries in full, where the standard lets it be 1.
    """
    size = {"start": KEYS_AXIS, "end": KEYS_AXIS + 1}
    count = _add(graph, before, "Shape", [keys], size)
    queries = before.inputs[0]
    assert queries is not None
    every = _add(graph, before, "Shape", [queries], size)
    scalar = _add(graph, before, "Squeeze", [count])
    bounds = [_integer(graph, 0), scalar, _integer(graph, 1)]
    places = _add(graph, before, "Range", bounds)
    axes = constant(graph, "mask.axes", ir.Tensor(np.array([1, 2, 3]), name="mask.axes"))
    column = _add(graph, before, "Unsqueeze", [lengths, axes])
    row = _add(graph, before, "Less", [places, column])
    row.type = ir.TensorType(ir.DataType.BOOL)
    one = constant(graph, "mask.one", ir.Tensor(np.array([1]), name="mask.one"))
    shape = _add(graph, before, "Concat", [one, one, every, one], {"axis": 0})
    mask = _add(graph, before, "Expand", [row, shape])
    mask.type = ir.TensorType(ir.DataType.BOOL)
    return mask


def _hide(graph: ir.Graph, before: ir.Node, mask: ir.Value, bias: ir.Value) -> ir.Value:
    name = "mask.hidden"
    hidden = constant(graph, name, ir.Tensor(np.array(HIDDEN, dtype=np.float32), name=name))
    value = _add(graph, before, "Where", [mask, bias, hidden])
    value.type = bias.type
    return value


def _add(
    graph: ir.Graph,
    before: ir.Node,
    operator: str,
    inputs: list[ir.Value],
    attributes: dict[str, int] | None = None,
) -> ir.Value:
    node = ir.node(operator, inputs, attributes or {})
    node.outputs[0].type = ir.TensorType(ir.DataType.INT64)
    graph.insert_before(before, node)
    return node.outputs[0]


def _integer(graph: ir.Graph, number: int) -> ir.Value:
    name = f"mask.{number}"
    return constant(graph, name, ir.Tensor(np.array(number, dtype=np.int64), name=name))
