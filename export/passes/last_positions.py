"""Let a decoder answer several of a row's last tokens, not the last one alone.

What was guessed for a row is verified by one call: the guesses are fed behind the row's last token,
and the logits after each of them say which were right.

1. A new input `last_positions` (1,) says how many tokens of each row are answered, 1 or more.
2. Before the vocabulary's product the hidden states of so many last valid tokens of each row are
   gathered, not that of the last one. Where a row has fewer, its first one stands for the others.
3. `logits` are (lines, vocab): row r's answers are the lines from r * last_positions on, the last
   valid token's behind the others. What is gathered for an `alignment` is as many lines.

Requires the canonical graph's gathering of `hidden[rows, new_length - 1]`.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from seq2edge.bundle.engine_info import ALIGNMENT, LAST_POSITIONS, LINES
from seq2edge.errors import ExportError
from seq2edge.export.passes.editing import Axis, Writer, known_axes


class LastPositions(ir.passes.InPlacePass):
    """See the module's rules."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Add the input. Raises ExportError where the gathering is not found."""
        graph = model.graph
        gathers, new_length = _find(graph)
        count = ir.Value(
            name=LAST_POSITIONS, shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64)
        )
        graph.inputs.append(count)
        writer = Writer(graph, gathers[0], prefix=str(gathers[0].name))
        rows = known_axes(new_length)[0]
        last = writer.add("Squeeze", [count], ())
        inputs = [last, writer.integer(0), writer.integer(-1)]
        back = writer.add("Range", inputs, (LAST_POSITIONS,))  # n, ..., 2, 1
        ends = writer.add("Unsqueeze", [new_length, writer.integers(1)], (rows, 1))
        places = writer.add("Sub", [ends, back], (rows, LAST_POSITIONS))
        places = writer.add("Max", [places, writer.integers(0)], (rows, LAST_POSITIONS))
        places = writer.add("Unsqueeze", [places, writer.integers(2)], (rows, LAST_POSITIONS, 1))
        _gather(writer, places)
        for gather in gathers[1:]:
            _gather(Writer(graph, gather, prefix=str(gather.name)), places)
        for value in graph.outputs:
            if value.name == ALIGNMENT:
                value.shape = ir.Shape([LINES, *known_axes(value)[1:]])
        RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=True)


def _gather(writer: Writer, places: ir.Value) -> None:
    """Gather a value's rows (rows, new, width) at those places, instead of the last ones alone."""
    assert writer.before is not None
    value = writer.before.inputs[0]
    assert value is not None
    rows, count, _ = known_axes(places)
    width = known_axes(value)[-1]
    axes = (rows, count, width)
    chosen = writer.add("GatherND", [value, places], axes, value.dtype, batch_dims=1)
    shape = [chosen, writer.integers(-1, int(str(width)))]
    answered = writer.add("Reshape", shape, (LINES, width))
    writer.replace_with(answered)
    _rename_first_axis(answered, rows)


def _find(graph: ir.Graph) -> tuple[list[ir.Node], ir.Value]:
    """The nodes that gather each row's last state, and the input that says where it is.

    The last hidden state, and for an alignment the queries of the heads' layers.
    """
    new_length = next((value for value in graph.inputs if value.name == "new_length"), None)
    gathers = [
        node
        for node in graph
        if node.op_type == "GatherND"
        and node.inputs[0] is not None
        and node.inputs[0].shape is not None
        and len(node.inputs[0].shape) == 3
        and not node.attributes.get_int("batch_dims", 0)
    ]
    aligned = any(value.name == ALIGNMENT for value in graph.outputs)
    if new_length is None or not gathers or (len(gathers) > 1 and not aligned):
        raise ExportError("last_positions: the graph does not gather each row's last hidden state")
    return gathers, new_length


def _rename_first_axis(value: ir.Value, rows: Axis) -> None:
    """What is computed of the answered tokens has as many lines."""
    for node in value.consumers():
        for result in node.outputs:
            axes = known_axes(result) if result.shape is not None else []
            if axes[:1] == [rows]:
                result.shape = ir.Shape([LINES, *axes[1:]])
                _rename_first_axis(result, rows)
