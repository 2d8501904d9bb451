"""Lower a masked graph to operators that TensorRT's parsers before 10.14 read.

From the graph after `length_to_mask.py` to opset 18 with the same inputs, outputs and symbols:

1. `Attention` becomes MatMul, Add, Softmax and MatMul of four axes; five are never fused. Grouped
   queries are folded into the length axis, (rows, kv_heads, groups * new, head_dim), and the mask
   with them: repeating keys and values instead would write the whole cache `groups` times at every
   step. The query is scaled before the product, which then stays in float16's range.
2. `TensorScatter` becomes `ScatterND` at `cache_length`. A growing cache, past and new tokens
   concatenated, is the other form that old parsers take. It would need another contract (a past of
   no fixed size) and, where rows are of different lengths, a map of the gaps that shorter rows
   leave, which neither the masks nor the runtime have. Either form copies the cache at every step;
   only `TensorScatter` is updated in place.
3. `RMSNormalization`, `RotaryEmbedding` and `Gelu` become elementary functions, the first in
   float32 as the operator itself computes.
4. `Clip` of integers, `Squeeze` without axes and `Split` in equal parts get the form that old
   parsers list.

Requires masks instead of lengths, and every half-precision type in place: run it last. Ensures that
every operator is one that the parser reads (`parser_operators.py`); an ExportError names
what is not. Quantized weights need opset 19 for half-precision scales, and 21 for blocks; then the
graph says that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from seq2edge.errors import ExportError
from seq2edge.export.passes.editing import Axis, Writer, known_axes
from seq2edge.export.passes.parser_operators import PARSERS, Parser

OPSET = 18
IR_VERSIONS = {18: 8, 19: 9, 20: 9, 21: 10}  # what came with each opset
MASK = 3  # the last input that is known here; lengths and pasts were turned into masks
FLOAT = ir.DataType.FLOAT
INTEGERS = (ir.DataType.INT32, ir.DataType.INT64)
_KINDS: dict[ir.DataType | None, str] = {
    **dict.fromkeys((ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16), "f"),
    **dict.fromkeys((ir.DataType.INT32, ir.DataType.INT64), "i"),
    ir.DataType.BOOL: "b",
    **dict.fromkeys((ir.DataType.INT8, ir.DataType.INT4), "q"),
}


class LowerToOpset18(ir.passes.InPlacePass):
    """See the module's rules."""

    def __init__(self, parser: Parser = PARSERS["10.3"]) -> None:
        super().__init__()
        self.parser = parser

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply all rules everywhere, and check the result."""
        graph = model.graph
        shared: dict[Hashable, ir.Value] = {}
        for node in list(graph):
            if node.op_type in RULES:
                RULES[node.op_type](Writer(graph, node, prefix=str(node.name), shared=shared), node)
        RemoveUnusedNodesPass()(model)
        opset = max((_needs(node) for node in graph), default=OPSET)
        if opset > self.parser.opset:
            raise ExportError(
                f"lower_to_opset18: the graph needs opset {opset}, TensorRT {self.parser.release} "
                f"reads up to {self.parser.opset}; use another recipe"
            )
        model.opset_imports[""] = opset
        model.ir_version = IR_VERSIONS[opset]
        for node in graph:
            node.version = None
            _check(node, self.parser)
        return ir.passes.PassResult(model, modified=True)


def _needs(node: ir.Node) -> int:
    """The opset that knows this form of a node."""
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return OPSET
    if node.attributes.get_int("block_size", 0) or node.inputs[0].dtype == ir.DataType.INT4:  # type: ignore[union-attr]
        return 21
    return OPSET if node.inputs[1].dtype == ir.DataType.FLOAT else 19  # type: ignore[union-attr]


def _check(node: ir.Node, parser: Parser) -> None:
    """Refuse what the parser would refuse on the device, long after."""
    data = node.inputs[1 if node.op_type == "Where" else 0]
    dtype = data.dtype if data is not None else None
    kind = _KINDS.get(dtype, "?")
    if node.domain not in ("", "ai.onnx") or kind not in parser.operators.get(node.op_type, ""):
        raise ExportError(
            f"lower_to_opset18: TensorRT {parser.release} does not read {node.name}, "
            f"{node.op_type} of {dtype.name.lower() if dtype is not None else 'an unknown type'}"
        )


def lower_attention(writer: Writer, node: ir.Node) -> None:
    """Products with a softmax between, four axes throughout."""
    query, key, value, mask = _read_attention(node)
    batch, heads, new, head_dim = known_axes(query)
    kv_heads, total = known_axes(key)[1:3]
    if not all(isinstance(n, int) for n in (heads, kv_heads, head_dim)):
        raise ExportError(f"lower_to_opset18: {node.name} has no fixed number of heads")
    groups = heads // kv_heads  # type: ignore[operator]
    folded: Axis = new
    if groups > 1:
        folded = None  # groups * new, which has no symbol
        shape = writer.integers(0, kv_heads, -1, head_dim)  # type: ignore[arg-type]
        query = writer.add("Reshape", [query, shape], (batch, kv_heads, folded, head_dim))
        mask = _fold_mask(writer, mask, heads, kv_heads) if mask is not None else None  # type: ignore[arg-type]
    scale = node.attributes.get_float("scale", head_dim**-0.5)  # type: ignore[operator]
    if scale != 1.0:
        assert query.dtype is not None
        query = writer.add("Mul", [query, writer.number(scale, query.dtype)], known_axes(query))
    turned = writer.add("Transpose", [key], (batch, kv_heads, head_dim, total), perm=[0, 1, 3, 2])
    scores = writer.add("MatMul", [query, turned], (batch, kv_heads, folded, total))
    cap = node.attributes.get_float("softcap", 0.0)
    if cap:
        assert scores.dtype is not None
        limit, axes = writer.number(cap, scores.dtype), known_axes(scores)
        bounded = writer.add("Tanh", [writer.add("Div", [scores, limit], axes)], axes)
        scores = writer.add("Mul", [bounded, limit], axes)
    if mask is not None:
        scores = writer.add("Add", [scores, mask], known_axes(scores))
    weights = writer.add("Softmax", [scores], known_axes(scores), axis=-1)
    depth = known_axes(value)[3]
    attended = writer.add("MatMul", [weights, value], (batch, kv_heads, folded, depth))
    if groups > 1:
        shape = writer.integers(0, heads, -1, depth)  # type: ignore[arg-type]
        attended = writer.add("Reshape", [attended, shape], (batch, heads, new, depth))
    writer.replace_with(attended)


def _read_attention(node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value | None]:
    """Query, key, value and mask; what the products do not compute is an error."""
    query, key, value, mask = [*node.inputs, None][: MASK + 1]
    known = ("scale", "softcap")
    unknown = [
        name for name in node.attributes if name not in known and node.attributes[name].value
    ]
    if unknown or any(node.inputs[MASK + 1 :]) or len(node.outputs) > 1:
        raise ExportError(
            f"lower_to_opset18: {node.name} has lengths, a past or {', '.join(unknown) or 'more'}; "
            "run length_to_mask first"
        )
    assert query is not None
    assert key is not None
    assert value is not None
    if any(v.shape is None or len(v.shape) != 4 for v in (query, key, value)):
        raise ExportError(f"lower_to_opset18: {node.name} is not (batch, heads, length, head_dim)")
    if mask is not None and mask.dtype != query.dtype:
        raise ExportError(
            f"lower_to_opset18: {node.name} has a mask of another type than its query; "
            "run length_to_mask first"
        )
    return query, key, value, mask


def _fold_mask(writer: Writer, mask: ir.Value, heads: int, kv_heads: int) -> ir.Value:
    """The mask of queries whose groups stand one after the other on the length axis."""
    batch, mask_heads, new, total = known_axes(mask)
    if mask_heads == 1 and new == 1:
        return mask  # the same for every query
    key = ("mask", mask, heads, kv_heads)
    if key not in writer.shared:
        if mask_heads == 1:
            repeated = [mask] * (heads // kv_heads)
            made = writer.add("Concat", repeated, (batch, 1, None, total), axis=2)
        else:
            shape = writer.integers(0, kv_heads, -1, 0)
            if new == 1:
                raise ExportError(
                    f"lower_to_opset18: {writer.prefix} has a mask for heads without queries"
                )
            made = writer.add("Reshape", [mask, shape], (batch, kv_heads, None, total))
        writer.shared[key] = made
    return writer.shared[key]


def lower_cache_write(writer: Writer, node: ir.Node) -> None:
    """`TensorScatter` along the capacity becomes `ScatterND` of whole heads' vectors."""
    cache, update, start = node.inputs
    axis, mode = node.attributes.get_int("axis", -2), node.attributes.get_string("mode", "linear")
    if cache is None or update is None or start is None or axis not in (2, -2) or mode != "linear":
        raise ExportError(f"lower_to_opset18: {node.name} is no linear write along axis 2")
    places = _places(writer, update, start)
    # Without the attribute `reduction`: TensorRT before 10.9 takes it for another operation.
    writer.replace_with(writer.add("ScatterND", [cache, places, update], known_axes(cache)))


def _places(writer: Writer, update: ir.Value, start: ir.Value) -> ir.Value:
    """(row, head, position) of every new vector, (rows, kv_heads, new, 3), for all layers alike."""
    rows, heads, new, _ = known_axes(update)
    if not isinstance(heads, int):
        raise ExportError(f"lower_to_opset18: {writer.prefix} has no fixed number of heads")
    key = ("places", start, rows or update, heads, new or update)
    if key not in writer.shared:
        count, length = writer.size(update, 0), writer.size(update, 2)
        shape = writer.add(
            "Concat", [count, writer.integers(heads), length, writer.integers(1)], (4,), axis=0
        )
        row = writer.along(writer.positions(update, 0), 0)
        head = writer.along(writer.integers(*range(heads)), 1)
        offset = writer.along(writer.positions(update, 2), 2)
        first = writer.along(start, 0)
        position = writer.add("Add", [first, offset], (rows, 1, new, 1))
        spread = [
            writer.add("Expand", [index, shape], (rows, heads, new, 1))
            for index in (row, head, position)
        ]
        writer.shared[key] = writer.add("Concat", spread, (rows, heads, new, 3), axis=3)
    return writer.shared[key]


def lower_rms_normalization(writer: Writer, node: ir.Node) -> None:
    """Zhang and Sennrich 2019, in float32 whatever the graph's type is.

    The operator does so by itself (its `stash_type`): the square of 256 is no float16.
    """
    x, scale = node.inputs
    assert x is not None
    assert scale is not None
    axes = known_axes(x)
    if node.attributes.get_int("axis", -1) not in (-1, len(axes) - 1):
        raise ExportError(f"lower_to_opset18: {node.name} normalises more than the last axis")
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    wide = x if x.dtype == FLOAT else writer.add("Cast", [x], axes, FLOAT, to=int(FLOAT))
    square = writer.add("Pow", [wide, writer.number(2.0, FLOAT)], axes)
    reduced: list[Axis] = [*axes[:-1], 1]
    # The axis is an initializer, and the exponent a float: what old parsers read.
    mean = writer.add("ReduceMean", [square, writer.integers(-1)], reduced, keepdims=1)
    root = writer.add(
        "Sqrt", [writer.add("Add", [mean, writer.number(epsilon, FLOAT)], reduced)], reduced
    )
    normed = writer.add("Div", [wide, root], axes)
    if x.dtype != FLOAT:
        assert x.dtype is not None
        normed = writer.add("Cast", [normed], axes, x.dtype, to=int(x.dtype))
    writer.replace_with(writer.add("Mul", [normed, scale], axes))


def lower_rotary_embedding(writer: Writer, node: ir.Node) -> None:
    """Su et al. 2021: the halves of every head turned together, x (rows, new, heads * head_dim).

    With a `rotary_embedding_dim` those are the halves of so many first values of a head.
    """
    x, cos, sin = node.inputs[:3]
    heads = node.attributes.get_int("num_heads", 0)
    other = node.attributes.get_int("interleaved", 0)
    if x is None or cos is None or sin is None or other or not heads or any(node.inputs[3:]):
        raise ExportError(f"lower_to_opset18: {node.name} is no rotation of halves by given angles")
    rows, new, width = known_axes(x)
    assert isinstance(width, int)
    head_dim = width // heads
    rotated = node.attributes.get_int("rotary_embedding_dim", 0) or head_dim
    split = writer.add(
        "Reshape", [x, writer.integers(0, 0, heads, head_dim)], (rows, new, heads, head_dim)
    )
    half = (rows, new, heads, rotated // 2)
    sizes, axes = [rotated // 2] * 2, [half, half]
    if rotated < head_dim:
        sizes.append(head_dim - rotated)
        axes.append((rows, new, heads, head_dim - rotated))
    first, second, *rest = writer.add_all("Split", [split, writer.integers(*sizes)], axes, axis=3)
    cos, sin = (_for_heads(writer, angle) for angle in (cos, sin))

    def product(one: ir.Value, other: ir.Value) -> ir.Value:
        return writer.add("Mul", [one, other], half)

    turned = [
        writer.add("Sub", [product(first, cos), product(second, sin)], half),
        writer.add("Add", [product(second, cos), product(first, sin)], half),
    ]
    joined = writer.add("Concat", [*turned, *rest], (rows, new, heads, head_dim), axis=3)
    merged = writer.add("Reshape", [joined, writer.integers(0, 0, width)], (rows, new, width))
    writer.replace_with(merged)


def _for_heads(writer: Writer, angle: ir.Value) -> ir.Value:
    """(rows, new, head_dim / 2) -> (rows, new, 1, head_dim / 2), once for all layers."""
    key = ("angle", angle)
    if key not in writer.shared:
        rows, new, half = known_axes(angle)
        writer.shared[key] = writer.add(
            "Unsqueeze", [angle, writer.integers(2)], (rows, new, 1, half)
        )
    return writer.shared[key]


def lower_gelu(writer: Writer, node: ir.Node) -> None:
    """Hendrycks and Gimpel 2016, exact or by a hyperbolic tangent as the node says."""
    x = node.inputs[0]
    assert x is not None
    assert x.dtype is not None
    axes, dtype = known_axes(x), x.dtype

    def times(value: ir.Value, factor: float) -> ir.Value:
        return writer.add("Mul", [value, writer.number(factor, dtype)], axes)

    if node.attributes.get_string("approximate", "none") == "tanh":
        cube = writer.add("Pow", [x, writer.number(3.0, dtype)], axes)
        inner = writer.add("Add", [x, times(cube, 0.044715)], axes)
        part = writer.add("Tanh", [times(inner, math.sqrt(2 / math.pi))], axes)
    else:
        part = writer.add("Erf", [times(x, math.sqrt(0.5))], axes)
    part = writer.add("Add", [part, writer.number(1.0, dtype)], axes)
    writer.replace_with(writer.add("Mul", [times(x, 0.5), part], axes))


def lower_clip(writer: Writer, node: ir.Node) -> None:
    """`Clip` of integers, which no old parser lists."""
    x, least, most = [*node.inputs, None, None][:3]
    if x is None or x.dtype not in INTEGERS:
        return
    axes, value = known_axes(x), x
    for operator, limit in (("Max", least), ("Min", most)):
        if limit is not None:
            value = writer.add(operator, [value, limit], axes)
    writer.replace_with(value)


def lower_squeeze(writer: Writer, node: ir.Node) -> None:
    """`Squeeze` of every axis of size one says which they are."""
    x = node.inputs[0]
    if len(node.inputs) > 1 or x is None:
        return
    axes = known_axes(x)
    if any(not isinstance(axis, int) for axis in axes):
        raise ExportError(f"squeeze: {node.name} squeezes axes that are not known")
    ones = [index for index, axis in enumerate(axes) if axis == 1]
    left = [axis for axis in axes if axis != 1]
    writer.replace_with(writer.add("Squeeze", [x, writer.integers(*ones)], left))


def lower_split(writer: Writer, node: ir.Node) -> None:
    """`Split` in equal parts, new in opset 18, says how long they are."""
    x = node.inputs[0]
    if "num_outputs" not in node.attributes or x is None:
        return
    count, axis = len(node.outputs), node.attributes.get_int("axis", 0)
    size = known_axes(x)[axis]
    if not isinstance(size, int) or size % count:
        raise ExportError(f"lower_to_opset18: {node.name} splits an axis that is not known")
    node.attributes.pop("num_outputs")
    node.resize_inputs(2)
    node.replace_input_with(1, writer.integers(*[size // count] * count))


RULES: Mapping[str, Callable[[Writer, ir.Node], None]] = {
    "Attention": lower_attention,
    "TensorScatter": lower_cache_write,
    "RMSNormalization": lower_rms_normalization,
    "RotaryEmbedding": lower_rotary_embedding,
    "Gelu": lower_gelu,
    "Clip": lower_clip,
    "Squeeze": lower_squeeze,
    "Split": lower_split,
}
