"""Let a decoder compute the logits of chosen tokens alone: a vocabulary shortlist.

1. The vocabulary's product keeps the rows of its weight that belong to those tokens, and what is
   added to them. An embedding that is tied to the product stays whole: it reads any token.
2. `logits` stay (rows, vocab): minus infinity, and at the places of those tokens what rule 1 gives.

Why rule 2 scatters columns that were turned into rows: on a CPU `ScatterND` copies whole rows, so
that it costs a third of a `Gather` along the vocabulary for one row and less for more. Every
operator is one that old parsers read.

Requires `logits` that a product with a constant weight gives, with or without a constant sum behind
it and a bound (Gemma 2's) behind that; `TopLogits` comes after.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge.errors import ExportError
from seq2edge.export.passes.editing import (
    Writer,
    constant,
    drop_unused_weights,
    known_axes,
    trace_back,
)

LOGITS = "logits"
SHORT_LOGITS = "short_logits"
IDS = "shortlist"  # the weight with the tokens, (tokens, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShortLogits:
    """What a graph with a shortlist computes: `logits` (rows, tokens) of `ids` (tokens, 1)."""

    product: ir.Node
    logits: ir.Value
    ids: ir.Value


def find_short_logits(graph: ir.Graph) -> ShortLogits | None:
    """Where a graph computes the logits of its shortlist, None where it has none."""
    logits = next((value for value in graph.outputs if value.name == LOGITS), None)
    logits = trace_back(logits, "Cast") or logits
    columns = trace_back(logits, "Transpose")
    scatter = columns.producer() if columns is not None else None
    if scatter is None or scatter.op_type != "ScatterND":
        return None
    ids, short = scatter.inputs[1], trace_back(scatter.inputs[2], "Transpose")
    _, unbounded = _bounds(short)
    product = unbounded.producer() if unbounded is not None else None
    if product is not None and product.op_type == "Add":
        producers = [value.producer() for value in product.inputs if value is not None]
        product = next((node for node in producers if node is not None), None)
    if ids is None or short is None or product is None:
        return None
    return ShortLogits(product=product, logits=short, ids=ids)


class Shortlist(ir.passes.InPlacePass):
    """See the module's rules; `ids` are sorted. Graphs that share a weight share its part."""

    def __init__(self, ids: NDArray[np.int64]) -> None:
        super().__init__()
        self.ids = ids
        self._parts: dict[str, ir.TensorProtocol] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply both rules. Raises ExportError where no product gives the logits."""
        graph = model.graph
        place = next((i for i, put in enumerate(graph.outputs) if put.name == LOGITS), None)
        short = graph.outputs[place] if place is not None else None
        bounds, unbounded = _bounds(short)
        nodes = _head(unbounded)
        if place is None or short is None or not nodes:
            raise ExportError("shortlist: no product with a constant weight gives the logits")
        rows, vocab = known_axes(short)
        for node in nodes:
            for index, value in enumerate(node.inputs):
                if value is not None and value.const_value is not None:
                    axis = 0 if _is_transposed(node) and index == 1 else -1
                    node.replace_input_with(index, self._part(graph, value, axis))
        for node in (*nodes, *bounds):
            node.outputs[0].shape = ir.Shape([rows, len(self.ids)])
        short.name = SHORT_LOGITS
        logits = self._spread(graph, short, int(str(vocab)))
        logits.name = LOGITS
        graph.outputs[place] = logits
        drop_unused_weights(graph)
        return ir.passes.PassResult(model, modified=True)

    def _part(self, graph: ir.Graph, value: ir.Value, axis: int) -> ir.Value:
        """What belongs to the tokens of a weight whose `axis` is the vocabulary."""
        name = f"{value.name}.{IDS}"
        if name not in self._parts:
            assert value.const_value is not None
            part = np.take(value.const_value.numpy(), self.ids, axis=axis)
            self._parts[name] = ir.tensor(part, name=name)
        return constant(graph, name, self._parts[name])

    def _spread(self, graph: ir.Graph, short: ir.Value, vocab: int) -> ir.Value:
        """(rows, tokens) -> (rows, vocab)."""
        rows, tokens = known_axes(short)
        assert short.dtype is not None
        if IDS not in self._parts:
            self._parts[IDS] = ir.tensor(self.ids[:, None], name=IDS)
        writer = Writer(graph, None, prefix=IDS)
        columns = writer.add("Transpose", [short], (tokens, rows), perm=(1, 0))
        shape = [writer.integers(vocab), writer.size(short, 0)]
        size = writer.add("Concat", shape, (2,), ir.DataType.INT64, axis=0)
        never = writer.number(-np.inf, short.dtype)
        all_columns = writer.add("Expand", [never, size], (vocab, rows))
        inputs = [all_columns, constant(graph, IDS, self._parts[IDS]), columns]
        spread = writer.add("ScatterND", inputs, (vocab, rows))
        return writer.add("Transpose", [spread], (rows, vocab), perm=(1, 0))


def _bounds(logits: ir.Value | None) -> tuple[list[ir.Node], ir.Value | None]:
    """The functions of each logit by itself that stand last, and what they are of."""
    nodes: list[ir.Node] = []
    node = logits.producer() if logits is not None else None
    while node is not None and node.op_type in ("Tanh", "Mul", "Div"):
        nodes.append(node)
        logits = node.inputs[0]
        node = logits.producer() if logits is not None else None
    return nodes, logits


def _head(logits: ir.Value | None) -> list[ir.Node]:
    """The product that gives the logits, and behind it the sum with a constant where there is one.

    Empty where there is none.
    """
    node = logits.producer() if logits is not None else None
    behind: list[ir.Node] = []
    if node is not None and node.op_type == "Add":
        behind = [node]
        summed = [value for value in node.inputs if value is not None and not value.const_value]
        node = summed[0].producer() if len(summed) == 1 else None
    if node is None or node.op_type not in ("Gemm", "MatMul"):
        return []
    inputs = node.inputs
    addend = inputs[2] if len(inputs) > 2 else None
    constants = [inputs[1], *([addend] if addend is not None else [])]
    known = all(value is not None and value.const_value is not None for value in constants)
    return [node, *behind] if known else []


def _is_transposed(node: ir.Node) -> bool:
    return node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))
