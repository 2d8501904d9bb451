"""Add to a decoder what tokens are chosen from: its largest logits, and the sum of all.

A step is then answered with a few numbers instead of a vocabulary of them:

1. `top_values` and `top_ids` (rows, k) are the k largest logits of each row and their tokens. Which
   of equal ones are among them, and in which order, is left open: ONNX says the first, no document
   of TensorRT says anything. Who chooses may not rely on either.
2. `log_sum_exp` (rows,) is that of all logits, with the largest taken off before: old parsers read
   `ReduceLogSumExp` as the plain logarithm of a sum, which overflows for logits from 89 on. With
   `log_softmax` that operator gives it: on a CPU all of these together cost a twentieth of what
   they cost outside of the graph, for others they are not proven.
3. `logits` stay an output, for what cannot be chosen from a few.
4. Where the graph has a shortlist, all of this is of its logits; k is at most the list's length.

Requires `logits` (rows, vocab) in float32: run it when types are in place. Every operator is one
that old parsers read.
"""

from __future__ import annotations

import onnx_ir as ir

from seq2edge.bundle.engine_info import LOG_SUM_EXP, TOP_IDS, TOP_VALUES
from seq2edge.errors import ExportError
from seq2edge.export.passes.editing import Writer, known_axes
from seq2edge.export.passes.shortlist import LOGITS, find_short_logits

VOCAB_AXIS = 1


class TopLogits(ir.passes.InPlacePass):
    """See the module's rules; `k` logits of each row."""

    def __init__(self, k: int, *, log_softmax: bool = False) -> None:
        super().__init__()
        self.k = k
        self.log_softmax = log_softmax

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Add the outputs behind the others. Raises ExportError for other logits, or too few."""
        graph = model.graph
        logits = next((value for value in graph.outputs if value.name == LOGITS), None)
        producer = logits.producer() if logits is not None else None
        if logits is None or producer is None or logits.dtype != ir.DataType.FLOAT:
            raise ExportError("top_logits: the graph does not compute logits in float32")
        writer = Writer(graph, None, prefix=str(producer.name))
        short = find_short_logits(graph)
        if short is not None:
            logits = _in_float32(writer, short.logits)
        vocab = known_axes(logits)[VOCAB_AXIS]
        if not isinstance(vocab, int) or not 1 <= self.k <= vocab:
            raise ExportError(f"top_logits: there are no {self.k} largest of {vocab} logits")
        values, ids = self._top(writer, logits)
        if self.log_softmax:
            total = _sum_by_softmax(writer, logits, values, ids)
        else:
            total = _log_sum_exp(writer, logits)
        if short is not None:
            ids = _tokens(writer, short.ids, ids)
        for name, value in ((LOG_SUM_EXP, total), (TOP_VALUES, values), (TOP_IDS, ids)):
            value.name = name
            graph.outputs.append(value)
        return ir.passes.PassResult(model, modified=True)

    def _top(self, writer: Writer, logits: ir.Value) -> tuple[ir.Value, ir.Value]:
        axes = [known_axes(logits)[0], self.k]
        inputs = [logits, writer.integers(self.k)]
        values, ids = writer.add_all("TopK", inputs, [axes, axes], axis=VOCAB_AXIS)
        ids.type = ir.TensorType(ir.DataType.INT64)
        return values, ids


def _in_float32(writer: Writer, logits: ir.Value) -> ir.Value:
    """A shortlist's logits, which may still be of another type."""
    if logits.dtype == ir.DataType.FLOAT:
        return logits
    axes, kind = known_axes(logits), ir.DataType.FLOAT
    return writer.add("Cast", [logits], axes, kind, to=int(kind))


def _tokens(writer: Writer, listed: ir.Value, places: ir.Value) -> ir.Value:
    """Places in a shortlist (tokens, 1) as its tokens, (rows, k)."""
    rows, k = known_axes(places)
    tokens = writer.add("Gather", [listed, places], (rows, k, 1), axis=0)
    return writer.add("Squeeze", [tokens, writer.integers(2)], (rows, k))


def _sum_by_softmax(writer: Writer, logits: ir.Value, values: ir.Value, ids: ir.Value) -> ir.Value:
    """(rows, vocab) -> (rows,): what the largest logit lost, which is little."""
    rows, vocab = known_axes(logits)
    likely = writer.add("LogSoftmax", [logits], (rows, vocab), axis=VOCAB_AXIS)
    axis, zero, one = (writer.integers(number) for number in (VOCAB_AXIS, 0, 1))
    best = writer.add("Slice", [ids, zero, one, axis], (rows, 1))
    likeliest = writer.add("GatherElements", [likely, best], (rows, 1), axis=VOCAB_AXIS)
    largest = writer.add("Slice", [values, zero, one, axis], (rows, 1))
    total = writer.add("Sub", [largest, likeliest], (rows, 1))
    return writer.add("Squeeze", [total, axis], (rows,))


def _log_sum_exp(writer: Writer, logits: ir.Value) -> ir.Value:
    """(rows, vocab) -> (rows,)."""
    rows, vocab = known_axes(logits)
    axis = writer.integers(VOCAB_AXIS)
    highest = writer.add("ReduceMax", [logits, axis], (rows, 1), keepdims=1)
    shifted = writer.add("Sub", [logits, highest], (rows, vocab))
    exponents = writer.add("Exp", [shifted], (rows, vocab))
    total = writer.add("ReduceSum", [exponents, axis], (rows, 1), keepdims=1)
    result = writer.add("Add", [writer.add("Log", [total], (rows, 1)), highest], (rows, 1))
    return writer.add("Squeeze", [result, axis], (rows,))
