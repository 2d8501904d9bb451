"""Turn lengths into additive masks, for engines whose parser reads no lengths.

TensorRT's parser drops `nonpad_kv_seqlen` with a warning: padding would be attended to. So every
`Attention` gets one additive mask of the query's type, shared by all attentions that see the same
keys in the same way (a decoder: one for its cache, one for the source):

1. A boolean mask, a length (`nonpad_kv_seqlen`) and `is_causal` say which keys are seen; a key that
   is not seen gets `MASKED`, every other one the additive mask that was there, or 0.
2. An additive mask is bounded below by `MASKED`: no infinity reaches a kernel, so that a row
   without any valid key gives a mean of all values and never NaN.
3. `Squeeze` names its axes, which parsers before TensorRT 11.5 need.
4. A `softcap`, which the parser drops as well, becomes the products and functions that it stands
   for (`lower_to_opset18.py`).
5. What the parser does not read either (past and present of the operator itself) is an error, never
   left behind.

Requires 4-D attention; gives a standard graph of the same opset, inputs and outputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from seq2edge.errors import ExportError
from seq2edge.export.passes.editing import Axis, Writer, known_axes
from seq2edge.export.passes.lower_to_opset18 import lower_attention, lower_squeeze

# Half of float16's range: a score and this never overflow together, and the key of a masked score
# would have to be 32,768 above the best valid one to be seen. Exact in every float type.
MASKED = -32768.0
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
UNREAD = ("softmax_precision", "qk_matmul_output_mode")  # attributes, all 0 by default
QUERY, KEY, MASK, PAST, LENGTH = 0, 1, 3, 4, 6  # the operator's inputs
LENGTH_AXIS = 2  # of queries and keys; a mask has the queries there and the keys last


class LengthToMask(ir.passes.InPlacePass):
    """See the module's rules."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Give every attention its mask; raises ExportError for one that has no such form."""
        made: dict[Visibility, ir.Value] = {}
        for node in list(model.graph):
            if node.op_type == "Attention":
                give_mask(model.graph, node, made)
        capped = [n for n in model.graph if n.op_type == "Attention" and _is_set(n, "softcap")]
        for node in capped:
            lower_attention(Writer(model.graph, node, prefix=str(node.name)), node)
        short = [n for n in model.graph if n.op_type == "Squeeze" and len(n.inputs) == 1]
        for node in short:
            lower_squeeze(Writer(model.graph, node, prefix=str(node.name)), node)
        return ir.passes.PassResult(model, modified=bool(made or short or capped))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Visibility:
    """What decides which keys an attention sees: equal for layers that can share a mask."""

    mask: ir.Value | None
    length: ir.Value | None
    keys: ir.Value | int | str  # the size of the key axis, or the keys if it has no name
    queries: ir.Value | int | str  # the same of the query axis
    causal: bool
    dtype: ir.DataType


def give_mask(graph: ir.Graph, node: ir.Node, made: dict[Visibility, ir.Value]) -> None:
    """Let an attention read one additive mask; those of a graph that can share one are `made`."""
    visibility = _read(node)
    if visibility.mask is None and visibility.length is None and not visibility.causal:
        return  # it sees every key
    if visibility not in made:
        writer = Writer(graph, node, prefix=f"mask_{len(made)}")
        made[visibility] = _Masks(writer, node).write(visibility)
    node.resize_inputs(MASK + 1)
    node.replace_input_with(MASK, made[visibility])
    node.attributes.pop("is_causal", None)


def _read(node: ir.Node) -> Visibility:
    """What an attention sees; what the parser does not read is an error (rule 5)."""
    inputs = [*node.inputs, *[None] * (LENGTH + 1 - len(node.inputs))]
    query, key = inputs[QUERY], inputs[KEY]
    unread = [name for name in UNREAD if _is_set(node, name)]
    if unread or any(inputs[PAST:LENGTH]) or len(node.outputs) > 1:
        raise ExportError(
            f"length_to_mask: {node.name} uses {', '.join(unread) or 'past or present'}, "
            "which TensorRT does not read"
        )
    if query is None or key is None or query.dtype not in FLOATS:
        raise ExportError(f"length_to_mask: {node.name} has a query of no known float type")
    if query.shape is None or key.shape is None or {len(query.shape), len(key.shape)} != {4}:
        raise ExportError(f"length_to_mask: {node.name} is not (batch, heads, length, head_dim)")
    return Visibility(
        mask=inputs[MASK],
        length=inputs[LENGTH],
        keys=known_axes(key)[LENGTH_AXIS] or key,
        queries=known_axes(query)[LENGTH_AXIS] or query,
        causal=bool(node.attributes.get_int("is_causal", 0)),
        dtype=query.dtype,
    )


def _is_set(node: ir.Node, name: str) -> bool:
    return name in node.attributes and bool(node.attributes[name].value)


class _Masks:
    """Writes the nodes of one mask in front of the first attention that reads it."""

    def __init__(self, writer: Writer, first: ir.Node) -> None:
        self.writer = writer
        query, key = first.inputs[QUERY], first.inputs[KEY]
        assert query is not None
        assert key is not None
        self.query, self.key = query, key

    def write(self, visibility: Visibility) -> ir.Value:
        """The additive mask (batch or 1, heads or 1, new, total)."""
        mask, dtype = visibility.mask, visibility.dtype
        bias, allowed = None, None
        if mask is not None and mask.dtype != ir.DataType.BOOL:
            bias = self._bounded(mask, dtype)
        elif mask is not None:
            allowed = mask
        if visibility.length is not None or visibility.causal:
            limit = self._limit(visibility)
            allowed = limit if allowed is None else self._compare("And", allowed, limit)
        if allowed is None:
            assert bias is not None
            return bias
        if _broadcast([allowed, bias or allowed])[LENGTH_AXIS] == 1:
            allowed = self._for_every_query(allowed)
        number = self.writer.number
        inputs = [allowed, bias or number(0.0, dtype), number(MASKED, dtype)]
        return self.writer.add("Where", inputs, _broadcast(inputs), dtype)

    def _for_every_query(self, allowed: ir.Value) -> ir.Value:
        """Repeated along the query axis: runtimes do not broadcast a mask there."""
        one = self.writer.integers(1)
        sizes = [one, one, self.writer.size(self.query, LENGTH_AXIS), one]
        shape = self.writer.add("Concat", sizes, (4,), axis=0)
        batch, heads, _, total = _broadcast([allowed])
        axes = (batch, heads, known_axes(self.query)[LENGTH_AXIS], total)
        return self.writer.add("Expand", [allowed, shape], axes)

    def _bounded(self, mask: ir.Value, dtype: ir.DataType) -> ir.Value:
        axes = known_axes(mask)
        if mask.dtype != dtype:
            mask = self.writer.add("Cast", [mask], axes, dtype, to=dtype)
        return self.writer.add("Max", [mask, self.writer.number(MASKED, dtype)], axes)

    def _limit(self, visibility: Visibility) -> ir.Value:
        """Which keys lengths and causality allow: (batch or 1, 1, new or 1, total)."""
        keys = self.writer.positions(self.key, LENGTH_AXIS)  # (total,)
        length = None
        if visibility.length is not None:
            length = self.writer.along(visibility.length, 0)  # (batch, 1, 1, 1)
        if not visibility.causal:
            assert length is not None
            return self._compare("Less", keys, length)
        positions = self.writer.positions(self.query, LENGTH_AXIS)
        queries = self.writer.along(positions, LENGTH_AXIS)  # (1, 1, new, 1)
        if length is None:
            return self._compare("LessOrEqual", keys, queries)
        # The last query stands at the last valid key.
        size = self.writer.size(self.query, LENGTH_AXIS)
        start = self.writer.add("Sub", [length, size], known_axes(length))
        inputs = [queries, start]
        queries = self.writer.add("Add", inputs, _broadcast(inputs))  # (batch, 1, new, 1)
        return self._compare("LessOrEqual", keys, queries)

    def _compare(self, operator: str, one: ir.Value, other: ir.Value) -> ir.Value:
        inputs = [one, other]
        return self.writer.add(operator, inputs, _broadcast(inputs), ir.DataType.BOOL)


def _broadcast(values: Sequence[ir.Value]) -> tuple[Axis, ...]:
    """The axes of a result of these values, which are known to broadcast."""
    shapes = [known_axes(value) for value in values]
    rank = max(len(shape) for shape in shapes)
    padded: list[list[Axis]] = [[*[1] * (rank - len(shape)), *shape] for shape in shapes]
    return tuple(next((a for a in axes if a != 1), 1) for axes in zip(*padded, strict=True))
