"""Let a decoder answer several of a row's last tokens, not the last one alone.

What was guessed for a row is verified by one call: the guesses are fed behind the row's last token,
and the logits after each of them say which were right.

1. A new input `last_positions` (1,) says how many tokens of each row are answered, 1 or more.
2. Before the vocabulary's product the hidden states of so many last valid tokens of each row are
   gathered, not that of the last one. Where a row has fewer, its first one stands for the others.
3. `logits` are (lines, vocab): row r's answers are the lines from r * last_positions on, the last
   valid token's behind the others.

Requires the canonical graph's gathering of `hidden[rows, new_length - 1]`.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from seq2edge.bundle.engine_info import LAST_POSITIONS
from seq2edge.errors import ExportError
from seq2edge.export.passes.editing import Writer, known_axes

LINES = "lines"  # the symbol of rows * last_positions


class LastPositions(ir.passes.InPlacePass):
    """See the module's rules."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Add the input. Raises ExportError where the gathering is not found."""
        graph = model.graph
        gather, new_length = _find(graph)
        hidden = gather.inputs[0]
        assert hidden is not None
        rows, _, width = known_axes(hidden)
        count = ir.Value(
            name=LAST_POSITIONS, shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64)
        )
        graph.inputs.append(count)
        writer = Writer(graph, gather, prefix=str(gather.name))
        last = writer.add("Squeeze", [count], ())
        inputs = [last, writer.integer(0), writer.integer(-1)]
        back = writer.add("Range", inputs, (LAST_POSITIONS,))  # n, ..., 2, 1
        ends = writer.add("Unsqueeze", [new_length, writer.integers(1)], (rows, 1))
        places = writer.add("Sub", [ends, back], (rows, LAST_POSITIONS))
        places = writer.add("Max", [places, writer.integers(0)], (rows, LAST_POSITIONS))
        places = writer.add("Unsqueeze", [places, writer.integers(2)], (rows, LAST_POSITIONS, 1))
        axes = (rows, LAST_POSITIONS, width)
        chosen = writer.add("GatherND", [hidden, places], axes, hidden.dtype, batch_dims=1)
        shape = [chosen, writer.integers(-1, int(str(width)))]
        answered = writer.add("Reshape", shape, (LINES, width))
        writer.replace_with(answered)
        _rename_first_axis(answered)
        RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=True)


def _find(graph: ir.Graph) -> tuple[ir.Node, ir.Value]:
    """The node that gathers each row's last hidden state, and the input that says where it is."""
    new_length = next((value for value in graph.inputs if value.name == "new_length"), None)
    found = [
        node
        for node in graph
        if node.op_type == "GatherND"
        and node.inputs[0] is not None
        and node.inputs[0].shape is not None
        and len(node.inputs[0].shape) == 3
        and not node.attributes.get_int("batch_dims", 0)
    ]
    if new_length is None or len(found) != 1:
        raise ExportError("last_positions: the graph does not gather each row's last hidden state")
    return found[0], new_length


def _rename_first_axis(value: ir.Value) -> None:
    """What is computed of the answered tokens has as many lines."""
    for node in value.consumers():
        for result in node.outputs:
            axes = known_axes(result) if result.shape is not None else []
            if axes[:1] not in ([LINES], []):
                result.shape = ir.Shape([LINES, *axes[1:]])
                _rename_first_axis(result)
