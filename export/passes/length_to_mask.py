"""Turn lengths into additive masks, for engines whose parser reads no lengths.

TensorRT's parser drops `nonpad_kv_seqlen` with a warning: padding would be attended to. So every
`Attention` gets one additive mask of the query's type, shared by all attentions that see the same
keys in the same way (a decoder: one for its cache, one for the source):

1. A boolean mask, a length (`nonpad_kv_seqlen`) and `is_causal` say which keys are seen; a key that
   is not seen gets `MASKED`, every other one the additive mask that was there, or 0.
2. An additive mask is bounded below by `MASKED`: no infinity reaches a kernel, so that a row
   without any valid key gives a mean of all values and never NaN.
3. `Squeeze` names its axes, which parsers before TensorRT 11.5 need.
4. What the parser does not read either (`softcap`, past and present of the operator itself) is an
   error, never left behind.

Requires 4-D attention; gives a standard graph of the same opset, inputs and outputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from seq2edge.errors import ExportError
from seq2edge.export.passes import constant
from seq2edge.export.passes.lower_functions import lower_squeeze
from seq2edge.export.passes.writing import Writer

# Half of float16's range: a score and this never overflow together, and the key of a masked score
# would have to be 32,768 above the best valid one to be seen. Exact in every float type.
MASKED = -32768.0
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
UNREAD = ("softcap", "softmax_precision", "qk_matmul_output_mode")  # attributes, all 0 by default
QUERY, KEY, MASK, PAST, LENGTH = 0, 1, 3, 4, 6  # the operator's inputs
LENGTH_AXIS = 2  # of queries and keys; a mask has the queries there and the keys last

Axes = tuple[int | str | None, ...]


class LengthToMask(ir.passes.InPlacePass):
    """See the module's rules."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Give every attention its mask; raises ExportError for one that has no such form."""
        made: dict[_Seen, ir.Value] = {}
        for node in list(model.graph):
            if node.op_type != "Attention":
                continue
            seen = _read(node)
            if seen.mask is None and seen.length is None and not seen.causal:
                continue  # it sees every key
            if seen not in made:
                made[seen] = _Masks(model.graph, node, f"mask_{len(made)}").of(seen)
            node.resize_inputs(MASK + 1)
            node.replace_input_with(MASK, made[seen])
            node.attributes.pop("is_causal", None)
        short = [n for n in model.graph if n.op_type == "Squeeze" and len(n.inputs) == 1]
        for node in short:
            lower_squeeze(Writer(model.graph, node, {}), node)
        return ir.passes.PassResult(model, modified=bool(made or short))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Seen:
    """What decides which keys an attention sees: equal for layers that can share a mask."""

    mask: ir.Value | None
    length: ir.Value | None
    keys: ir.Value | int | str  # the size of the key axis, or the keys if it has no name
    queries: ir.Value | int | str  # the same of the query axis
    causal: bool
    dtype: ir.DataType


def _read(node: ir.Node) -> _Seen:
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
    return _Seen(
        mask=inputs[MASK],
        length=inputs[LENGTH],
        keys=_axis(key, LENGTH_AXIS) or key,
        queries=_axis(query, LENGTH_AXIS) or query,
        causal=bool(node.attributes.get_int("is_causal", 0)),
        dtype=query.dtype,
    )


def _is_set(node: ir.Node, name: str) -> bool:
    return name in node.attributes and bool(node.attributes[name].value)


def _axis(value: ir.Value, axis: int) -> int | str | None:
    """A size or its symbol, None where neither is known."""
    assert value.shape is not None
    size = value.shape[axis]
    return size if isinstance(size, int) else size.value


class _Masks:
    """Writes the nodes of one mask in front of the first attention that reads it."""

    def __init__(self, graph: ir.Graph, first: ir.Node, name: str) -> None:
        self.graph, self.first, self.name = graph, first, name
        self.count = 0
        query, key = first.inputs[QUERY], first.inputs[KEY]
        assert query is not None
        assert key is not None
        self.query, self.key = query, key

    def of(self, seen: _Seen) -> ir.Value:
        """The additive mask (batch or 1, heads or 1, new, total)."""
        bias, allowed = None, None
        if seen.mask is not None and seen.mask.dtype != ir.DataType.BOOL:
            bias = self._bounded(seen.mask, seen.dtype)
        elif seen.mask is not None:
            allowed = seen.mask
        if seen.length is not None or seen.causal:
            limit = self._visible(seen)
            allowed = limit if allowed is None else self._both(allowed, limit)
        if allowed is None:
            assert bias is not None
            return bias
        if _broadcast([allowed, bias or allowed])[LENGTH_AXIS] == 1:
            allowed = self._for_every_query(allowed)
        inputs = [allowed, bias or self._number(0.0, seen.dtype), self._number(MASKED, seen.dtype)]
        return self._node("Where", inputs, seen.dtype, _broadcast(inputs))

    def _for_every_query(self, allowed: ir.Value) -> ir.Value:
        """Repeated along the query axis: runtimes do not broadcast a mask there."""
        one = self._integers("mask.axis", (1,))
        sizes = [one, one, self._size(self.query), one]
        shape = self._node("Concat", sizes, ir.DataType.INT64, (4,), axis=0)
        batch, heads, _, total = _broadcast([allowed])
        axes = (batch, heads, _axis(self.query, LENGTH_AXIS), total)
        return self._node("Expand", [allowed, shape], ir.DataType.BOOL, axes)

    def _bounded(self, mask: ir.Value, dtype: ir.DataType) -> ir.Value:
        axes = _broadcast([mask])
        if mask.dtype != dtype:
            mask = self._node("Cast", [mask], dtype, axes, to=dtype)
        return self._node("Max", [mask, self._number(MASKED, dtype)], dtype, axes)

    def _both(self, one: ir.Value, other: ir.Value) -> ir.Value:
        return self._node("And", [one, other], ir.DataType.BOOL, _broadcast([one, other]))

    def _visible(self, seen: _Seen) -> ir.Value:
        """Which keys lengths and causality allow: (batch or 1, 1, new or 1, total)."""
        keys = self._positions(self.key)  # (total,)
        length = None if seen.length is None else self._unsqueezed(seen.length)  # (batch, 1, 1, 1)
        if not seen.causal:
            assert length is not None
            return self._compared("Less", keys, length)
        rows = self._unsqueezed(self._positions(self.query), before=(0, 1, 3))  # (1, 1, new, 1)
        if length is None:
            return self._compared("LessOrEqual", keys, rows)
        # The last query stands at the last valid key.
        start = self._number_op("Sub", length, self._size(self.query))
        return self._compared("LessOrEqual", keys, self._number_op("Add", rows, start))

    def _compared(self, operator: str, keys: ir.Value, limit: ir.Value) -> ir.Value:
        return self._node(operator, [keys, limit], ir.DataType.BOOL, _broadcast([keys, limit]))

    def _number_op(self, operator: str, one: ir.Value, other: ir.Value) -> ir.Value:
        return self._node(operator, [one, other], ir.DataType.INT64, _broadcast([one, other]))

    def _size(self, value: ir.Value) -> ir.Value:
        """The length axis of keys or queries, int64 (1,)."""
        return self._node(
            "Shape", [value], ir.DataType.INT64, (1,), start=LENGTH_AXIS, end=LENGTH_AXIS + 1
        )

    def _positions(self, value: ir.Value) -> ir.Value:
        """0, 1, ... along the length axis of keys or queries."""
        size = self._node("Squeeze", [self._size(value)], ir.DataType.INT64, ())
        zero, one = self._integers("mask.zero", 0), self._integers("mask.one", 1)
        return self._node(
            "Range", [zero, size, one], ir.DataType.INT64, (_axis(value, LENGTH_AXIS),)
        )

    def _unsqueezed(self, value: ir.Value, before: tuple[int, ...] = (1, 2, 3)) -> ir.Value:
        """A vector as one of the four axes of a mask."""
        assert value.shape is not None
        axes: list[int | str | None] = [1, 1, 1, 1]
        axes[next(i for i in range(4) if i not in before)] = _axis(value, 0)
        index = self._integers(f"mask.axes_{before[0]}", before)
        return self._node("Unsqueeze", [value, index], ir.DataType.INT64, tuple(axes))

    def _integers(self, name: str, values: int | tuple[int, ...]) -> ir.Value:
        return constant(self.graph, name, ir.tensor(np.array(values, dtype=np.int64), name=name))

    def _number(self, number: float, dtype: ir.DataType) -> ir.Value:
        name = f"mask.{'none' if number else 'seen'}.{dtype.name.lower()}"
        array = np.array(number, dtype=dtype.numpy())
        return constant(self.graph, name, ir.tensor(array, dtype, name=name))

    def _node(
        self,
        operator: str,
        inputs: Sequence[ir.Value],
        dtype: ir.DataType,
        axes: Axes,
        **attributes: int,
    ) -> ir.Value:
        name = f"{self.name}/{operator.lower()}_{self.count}"
        self.count += 1
        node = ir.node(operator, inputs, attributes, name=name)
        made = node.outputs[0]
        made.name, made.shape, made.type = name, ir.Shape(axes), ir.TensorType(dtype)
        self.graph.insert_before(self.first, node)
        return made


def _broadcast(values: Sequence[ir.Value]) -> Axes:
    """The axes of a result of these values, which are known to broadcast."""
    shapes = [[_axis(v, i) for i in range(len(v.shape))] for v in values if v.shape is not None]
    rank = max(len(shape) for shape in shapes)
    padded: list[Axes] = [(*[1] * (rank - len(shape)), *shape) for shape in shapes]
    return tuple(next((a for a in axes if a != 1), 1) for axes in zip(*padded, strict=True))
