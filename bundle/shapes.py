"""Shapes of a graph's values as far as operators' rules give them; None where they do not.

A kernel that writes into a cache goes by the length of what it is given. That this is the length of
the new tokens, and not what a stranger's graph made of it, is shown by following the axes from the
graph's inputs. Nothing that a file says of the shapes between is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from seq2edge.bundle.onnx_file import Attribute, Node

# A size, a symbol of the graph's inputs, or a symbol and so many more.
Axis: TypeAlias = int | str | tuple[str, int] | None
Axes: TypeAlias = tuple[Axis, ...]  # of integers it may be what they are, too

NO_END = 2**62  # an end of slices that is none
STEPS = 4  # the input of slices that has them
MOST = 64  # axes, numbers and inputs: with more nothing is followed


class Shapes:
    """Shapes by value, and what small vectors of integers hold."""

    def __init__(self, shapes: Mapping[str, Axes], numbers: Mapping[str, Axes]) -> None:
        self.shapes: dict[str, Axes] = dict(shapes)
        self.numbers: dict[str, Axes] = dict(numbers)

    def add(self, node: Node) -> None:
        """Follow one operator, behind all that it reads."""
        if not 1 <= len(node.inputs) <= MOST or not node.outputs:
            return
        rule = _RULES.get(node.operator)
        if rule is not None:
            for name, axes in zip(node.outputs, rule(self, node), strict=False):
                if name and axes is not None and len(axes) <= MOST:
                    self.shapes[name] = axes
        if node.operator in _NUMBERS:
            numbers = _NUMBERS[node.operator](self, node)
            if numbers is not None and len(numbers) <= MOST:
                self.numbers[node.outputs[0]] = numbers

    def of(self, node: Node, place: int) -> Axes | None:
        """The shape of one of its inputs."""
        return self.shapes.get(node.inputs[place]) if place < len(node.inputs) else None

    def held(self, node: Node, place: int) -> Axes | None:
        """What one of its inputs holds."""
        return self.numbers.get(node.inputs[place]) if place < len(node.inputs) else None

    def integers(self, node: Node, place: int) -> list[int] | None:
        """The same where all of it are numbers."""
        held = self.held(node, place)
        numbers = [number for number in held or () if isinstance(number, int)]
        return numbers if held is not None and len(numbers) == len(held) else None


_Results: TypeAlias = Sequence[Axes | None]


def _integer(value: Attribute, default: int = 0) -> int:
    return value if isinstance(value, int) else default


def _same(shapes: Shapes, node: Node) -> _Results:
    return [shapes.of(node, 0)]


def _broadcast(shapes: Shapes, node: Node) -> _Results:
    inputs = [shapes.of(node, place) for place in range(len(node.inputs))]
    known = [axes for axes in inputs if axes is not None]
    return [_widest(known) if len(known) == len(inputs) else None]


def _widest(inputs: Sequence[Axes]) -> Axes:
    """Axes from the right; those of 1, and missing ones, are as long as the others'."""
    rank = max(map(len, inputs))
    columns = zip(*((1,) * (rank - len(axes)) + axes for axes in inputs), strict=True)
    return tuple(_longest(column) for column in columns)


def _longest(column: Axes) -> Axis:
    """The one that is not 1; unknown where several differ, as all of them but one may be 1."""
    others = {axis for axis in column if axis != 1}
    return others.pop() if len(others) == 1 else None if others else 1


def _product(shapes: Shapes, node: Node) -> _Results:
    """(..., n, k) times (..., k, m), whose axes before may be missing."""
    left, right = shapes.of(node, 0), shapes.of(node, 1)
    if left is None or right is None or min(len(left), len(right)) < 2:
        return [None]
    return [(*_widest([left[:-2], right[:-2]]), left[-2], right[-1])]


def _block_product(shapes: Shapes, node: Node) -> _Results:
    left = shapes.of(node, 0)
    return [left and (*left[:-1], _integer(node.attributes.get("N")))]


def _gather(shapes: Shapes, node: Node) -> _Results:
    table, places = shapes.of(node, 0), shapes.of(node, 1)
    axis = _integer(node.attributes.get("axis", node.attributes.get("gather_axis")))
    if table is None or places is None or not 0 <= axis < len(table):
        return [None]
    return [(*table[:axis], *places, *table[axis + 1 :])]


def _gather_blocks(shapes: Shapes, node: Node) -> _Results:
    """The last axis has several values in a byte."""
    (axes,) = _gather(shapes, node)
    return [axes and (*axes[:-1], None)]


def _split(shapes: Shapes, node: Node) -> _Results:
    whole, axis = shapes.of(node, 0), _integer(node.attributes.get("axis"))
    if whole is None or not -len(whole) <= axis < len(whole):
        return [None]
    axis %= len(whole)
    size, parts = whole[axis], len(node.outputs)
    even = size // parts if isinstance(size, int) and size % parts == 0 else None
    sizes: Sequence[Axis] = shapes.integers(node, 1) or [even] * parts
    return [(*whole[:axis], size, *whole[axis + 1 :]) for size in sizes]


def _reshape(shapes: Shapes, node: Node) -> _Results:
    """0 keeps an axis; -1 is what is left over, which need not be known."""
    whole, sizes = shapes.of(node, 0), shapes.held(node, 1)
    if whole is None or sizes is None or _integer(node.attributes.get("allowzero")):
        return [None]
    kept: list[Axis] = []
    for place, size in enumerate(sizes):
        if size == 0 and place >= len(whole):
            return [None]
        kept.append(whole[place] if size == 0 else None if size == -1 else size)
    return [tuple(kept)]


def _transpose(shapes: Shapes, node: Node) -> _Results:
    whole, order = shapes.of(node, 0), node.attributes.get("perm")
    if whole is None or not isinstance(order, tuple) or sorted(order) != [*range(len(whole))]:
        return [None]
    return [tuple(whole[axis] for axis in order)]


def _unsqueeze(shapes: Shapes, node: Node) -> _Results:
    whole, places = shapes.of(node, 0), shapes.integers(node, 1)
    if whole is None or places is None:
        return [None]
    rank = len(whole) + len(places)
    ones = {place % rank for place in places}
    rest = iter(whole)
    return [tuple(1 if axis in ones else next(rest, None) for axis in range(rank))]


def _squeeze(shapes: Shapes, node: Node) -> _Results:
    whole, places = shapes.of(node, 0), shapes.integers(node, 1)
    if whole is None:
        return [None]
    if places is None:
        return [() if whole == (1,) else None]
    gone = {place % max(1, len(whole)) for place in places}
    return [tuple(axis for place, axis in enumerate(whole) if place not in gone)]


def _slice(shapes: Shapes, node: Node) -> _Results:
    """Axes that are cut are not known any more, unless it is known how much is left of them."""
    whole, places = shapes.of(node, 0), shapes.integers(node, 3)
    if whole is None or not places or max(places) >= len(whole) or min(places) < -len(whole):
        return [None]
    cut: list[Axis] = list(whole)
    starts, ends, steps = (shapes.integers(node, place) or [] for place in (1, 2, 4))
    plain = len(starts) == len(ends) == len(places) and set(steps) <= {1}
    plain = plain and bool(steps) == (len(node.inputs) > STEPS)
    for number, place in enumerate(places):
        cut[place] = _rest(whole[place], starts[number], ends[number]) if plain else None
    return [tuple(cut)]


def _rest(size: Axis, start: int, end: int) -> Axis:
    """What is left of a symbol and so many more, cut at both ends, or nothing."""
    if 0 <= end <= start:
        return 0
    if not isinstance(size, tuple):
        return None
    symbol, more = size
    left = more - start - (0 if end >= NO_END else -end)
    if start < 0 or 0 <= end < NO_END or left < 0:
        return None
    return (symbol, left) if left else symbol


def _pad(shapes: Shapes, node: Node) -> _Results:
    """Those that are padded are not known any more."""
    whole, sizes = shapes.of(node, 0), shapes.integers(node, 1)
    if whole is None or sizes is None or len(sizes) != 2 * len(whole) or len(node.inputs) > 3:
        return [None]  # axes in an order of its own are a fourth input
    pads = zip(sizes[: len(whole)], sizes[len(whole) :], strict=True)
    return [tuple(a if pad == (0, 0) else None for a, pad in zip(whole, pads, strict=True))]


def _concat(shapes: Shapes, node: Node) -> _Results:
    inputs = [shapes.of(node, place) for place in range(len(node.inputs))]
    known = [axes for axes in inputs if axes is not None]
    axis, ranks = _integer(node.attributes.get("axis")), {len(axes) for axes in known}
    if len(known) < len(inputs) or len(ranks) > 1 or not -len(known[0]) <= axis < len(known[0]):
        return [None]
    axis %= len(known[0])
    total = _sum([axes[axis] for axes in known])
    return [(*known[0][:axis], total, *known[0][axis + 1 :])]


def _sum(sizes: Sequence[Axis]) -> Axis:
    """Of numbers, and one symbol at most."""
    numbers = [size for size in sizes if isinstance(size, int)]
    symbols = [size for size in sizes if isinstance(size, str)]
    if len(numbers) + len(symbols) < len(sizes) or len(symbols) > 1:
        return None
    return (symbols[0], sum(numbers)) if symbols else sum(numbers)


def _gather_nd(shapes: Shapes, node: Node) -> _Results:
    """(batch, ..., n) places of n numbers each in (batch, n axes, ...)."""
    table, places = shapes.of(node, 0), shapes.of(node, 1)
    batch = _integer(node.attributes.get("batch_dims"))
    count = places[-1] if places else None
    if table is None or not places or not isinstance(count, int):
        return [None]
    return [(*places[:-1], *table[batch + count :])]


def _attended(shapes: Shapes, node: Node) -> _Results:
    """Queries (batch, length, ...), and caches as they were."""
    query = shapes.of(node, 0)
    return [query and (*query[:2], None), shapes.of(node, 3), shapes.of(node, 4)]


def _attention(shapes: Shapes, node: Node) -> _Results:
    """Queries (batch, heads, length, head_dim) of values with a width of their own."""
    query, value = shapes.of(node, 0), shapes.of(node, 2)
    return [(*query[:3], value[-1]) if query and value else None]


def _range(shapes: Shapes, node: Node) -> _Results:
    """As long as the limit, from 0 in steps of 1."""
    limit = shapes.held(node, 1) or (None,)
    return [limit if shapes.integers(node, 0) == [0] and shapes.integers(node, 2) == [1] else None]


def _shape(shapes: Shapes, node: Node) -> _Results:
    numbers = _shape_numbers(shapes, node)
    return [None if numbers is None else (len(numbers),)]


def _expand(shapes: Shapes, node: Node) -> _Results:
    whole, sizes = shapes.of(node, 0), shapes.held(node, 1)
    return [None if whole is None or sizes is None else _widest([whole, sizes])]


def _reduce(shapes: Shapes, node: Node) -> _Results:
    whole, places = shapes.of(node, 0), shapes.integers(node, 1)
    if not whole or not places:
        return [None]
    gone = {place % len(whole) for place in places}
    if _integer(node.attributes.get("keepdims"), 1):
        return [tuple(1 if place in gone else axis for place, axis in enumerate(whole))]
    return [tuple(axis for place, axis in enumerate(whole) if place not in gone)]


def _shape_numbers(shapes: Shapes, node: Node) -> Axes | None:
    whole = shapes.of(node, 0)
    if whole is None:
        return None
    begin = _integer(node.attributes.get("start"))
    return whole[begin : _integer(node.attributes.get("end"), len(whole))]


def _concat_numbers(shapes: Shapes, node: Node) -> Axes | None:
    parts = [shapes.numbers.get(name) for name in node.inputs]
    known = [part for part in parts if part is not None]
    return tuple(number for part in known for number in part) if len(known) == len(parts) else None


def _same_numbers(shapes: Shapes, node: Node) -> Axes | None:
    return shapes.held(node, 0)


_RULES: Mapping[str, Callable[[Shapes, Node], _Results]] = {
    **dict.fromkeys(
        "Cast Clip Cos DequantizeLinear Exp Gelu LayerNormalization Log LogSoftmax Neg Not "
        "QuantizeLinear RMSNormalization Relu RotaryEmbedding ScatterND Sigmoid Sin Softmax "
        "Softplus Tanh TensorScatter".split(),
        _same,
    ),
    **dict.fromkeys(
        "Add And Div Greater GreaterOrEqual Less LessOrEqual Max Min Mul Sub Where".split(),
        _broadcast,
    ),
    **dict.fromkeys(("MatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"), _product),
    "MatMulNBits": _block_product,
    "Gather": _gather,
    "GatherBlockQuantized": _gather_blocks,
    "GatherND": _gather_nd,
    "Split": _split,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Slice": _slice,
    "Pad": _pad,
    "Concat": _concat,
    "Range": _range,
    **dict.fromkeys(("ReduceL2", "ReduceMax", "ReduceSum"), _reduce),
    "Shape": _shape,
    "Expand": _expand,
    "GroupQueryAttention": _attended,
    "MultiHeadAttention": _attended,
    "Attention": _attention,
}
_NUMBERS: Mapping[str, Callable[[Shapes, Node], Axes | None]] = {
    "Shape": _shape_numbers,
    "Concat": _concat_numbers,
    "Squeeze": _same_numbers,
    "Unsqueeze": _same_numbers,
}
