"""Attention and its cache in operators of opset 18; see `lower_to_opset18.py` for why so."""

from __future__ import annotations

import onnx_ir as ir

from seq2edge.errors import ExportError
from seq2edge.export.passes.writing import Axis, Writer, axes_of

MASK = 3  # the last input that is known here; lengths and pasts were turned into masks


def lower_attention(writer: Writer, node: ir.Node) -> None:
    """Products with a softmax between, four axes throughout."""
    query, key, value, mask = _read(node)
    batch, heads, new, head_dim = axes_of(query)
    kv_heads, total = axes_of(key)[1:3]
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
        query = writer.add("Mul", [query, writer.number(scale, query.dtype)], axes_of(query))
    turned = writer.add("Transpose", [key], (batch, kv_heads, head_dim, total), perm=[0, 1, 3, 2])
    scores = writer.add("MatMul", [query, turned], (batch, kv_heads, folded, total))
    if mask is not None:
        scores = writer.add("Add", [scores, mask], axes_of(scores))
    weights = writer.add("Softmax", [scores], axes_of(scores), axis=-1)
    depth = axes_of(value)[3]
    seen = writer.add("MatMul", [weights, value], (batch, kv_heads, folded, depth))
    if groups > 1:
        shape = writer.integers(0, heads, -1, depth)  # type: ignore[arg-type]
        seen = writer.add("Reshape", [seen, shape], (batch, heads, new, depth))
    writer.replace_with(seen)


def _read(node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value | None]:
    query, key, value, mask = [*node.inputs, None][: MASK + 1]
    unknown = [name for name in node.attributes if name != "scale" and node.attributes[name].value]
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
    batch, mask_heads, new, total = axes_of(mask)
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
                    f"lower_to_opset18: {writer.old.name} has a mask for heads without queries"
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
    writer.replace_with(writer.add("ScatterND", [cache, places, update], axes_of(cache)))


def _places(writer: Writer, update: ir.Value, start: ir.Value) -> ir.Value:
    """(row, head, position) of every new vector, (rows, kv_heads, new, 3), for all layers alike."""
    rows, heads, new, _ = axes_of(update)
    if not isinstance(heads, int):
        raise ExportError(f"lower_to_opset18: {writer.old.name} has no fixed number of heads")
    key = ("places", start, rows or update, heads, new or update)
    if key not in writer.shared:
        count, length = writer.size(update, 0), writer.size(update, 2)
        shape = writer.add(
            "Concat", [count, writer.integers(heads), length, writer.integers(1)], (4,), axis=0
        )
        row = _along(writer, _range(writer, count, rows), 0)
        head = _along(writer, writer.integers(*range(heads)), 1)
        offset = _along(writer, _range(writer, length, new), 2)
        first = _along(writer, start, 0)
        position = writer.add("Add", [first, offset], (rows, 1, new, 1))
        spread = [
            writer.add("Expand", [index, shape], (rows, heads, new, 1))
            for index in (row, head, position)
        ]
        writer.shared[key] = writer.add("Concat", spread, (rows, heads, new, 3), axis=3)
    return writer.shared[key]


def _range(writer: Writer, size: ir.Value, axis: Axis) -> ir.Value:
    """0, 1, ... up to a size (1,)."""
    limit = writer.add("Squeeze", [size, writer.integers(0)], ())
    return writer.add("Range", [writer.integer(0), limit, writer.integer(1)], (axis,))


def _along(writer: Writer, vector: ir.Value, axis: int) -> ir.Value:
    """A vector as one of four axes."""
    axes: list[Axis] = [1, 1, 1, 1]
    axes[axis] = axes_of(vector)[0]
    others = writer.integers(*(i for i in range(4) if i != axis))
    return writer.add("Unsqueeze", [vector, others], axes)
