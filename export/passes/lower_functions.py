"""Operators newer than opset 18, or of a newer form, in older ones."""

from __future__ import annotations

import math

import onnx_ir as ir

from seq2edge.errors import ExportError
from seq2edge.export.passes.writing import Axis, Writer, axes_of

FLOAT = ir.DataType.FLOAT
INTEGERS = (ir.DataType.INT32, ir.DataType.INT64)


def lower_rms_normalization(writer: Writer, node: ir.Node) -> None:
    """Zhang and Sennrich 2019, in float32 whatever the graph's type is.

    The operator does so by itself (its `stash_type`): the square of 256 is no float16.
    """
    x, scale = node.inputs
    assert x is not None
    assert scale is not None
    axes = axes_of(x)
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
    """Su et al. 2021: the halves of every head turned together, x (rows, new, heads * head_dim)."""
    x, cos, sin = node.inputs[:3]
    heads = node.attributes.get_int("num_heads", 0)
    other = any(node.attributes.get_int(n, 0) for n in ("interleaved", "rotary_embedding_dim"))
    if x is None or cos is None or sin is None or other or not heads or any(node.inputs[3:]):
        raise ExportError(f"lower_to_opset18: {node.name} is no rotation of halves by given angles")
    rows, new, width = axes_of(x)
    assert isinstance(width, int)
    head_dim = width // heads
    split = writer.add(
        "Reshape", [x, writer.integers(0, 0, heads, head_dim)], (rows, new, heads, head_dim)
    )
    half = (rows, new, heads, head_dim // 2)
    sizes = writer.integers(head_dim // 2, head_dim // 2)
    first, second = writer.add_all("Split", [split, sizes], [half, half], axis=3)
    cos, sin = (_for_heads(writer, angle) for angle in (cos, sin))

    def product(one: ir.Value, other: ir.Value) -> ir.Value:
        return writer.add("Mul", [one, other], half)

    turned = [
        writer.add("Sub", [product(first, cos), product(second, sin)], half),
        writer.add("Add", [product(second, cos), product(first, sin)], half),
    ]
    joined = writer.add("Concat", turned, (rows, new, heads, head_dim), axis=3)
    merged = writer.add("Reshape", [joined, writer.integers(0, 0, width)], (rows, new, width))
    writer.replace_with(merged)


def _for_heads(writer: Writer, angle: ir.Value) -> ir.Value:
    """(rows, new, head_dim / 2) -> (rows, new, 1, head_dim / 2), once for all layers."""
    key = ("angle", angle)
    if key not in writer.shared:
        rows, new, half = axes_of(angle)
        writer.shared[key] = writer.add(
            "Unsqueeze", [angle, writer.integers(2)], (rows, new, 1, half)
        )
    return writer.shared[key]


def lower_gelu(writer: Writer, node: ir.Node) -> None:
    """Hendrycks and Gimpel 2016, exact or by a hyperbolic tangent as the node says."""
    x = node.inputs[0]
    assert x is not None
    assert x.dtype is not None
    axes, dtype = axes_of(x), x.dtype

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
    axes, value = axes_of(x), x
    for operator, limit in (("Max", least), ("Min", most)):
        if limit is not None:
            value = writer.add(operator, [value, limit], axes)
    writer.replace_with(value)


def lower_squeeze(writer: Writer, node: ir.Node) -> None:
    """`Squeeze` of every axis of size one says which they are."""
    x = node.inputs[0]
    if len(node.inputs) > 1 or x is None:
        return
    axes = axes_of(x)
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
    size = axes_of(x)[axis]
    if not isinstance(size, int) or size % count:
        raise ExportError(f"lower_to_opset18: {node.name} splits an axis that is not known")
    node.attributes.pop("num_outputs")
    node.resize_inputs(2)
    node.replace_input_with(1, writer.integers(*[size // count] * count))
