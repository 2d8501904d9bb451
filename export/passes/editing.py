"""What passes share: looking around in a graph, writing nodes, removing what is left behind.

To put nodes in the place of others, use `ir.convenience.replace_nodes_and_values`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import onnx_ir as ir

CONTRIB = "com.microsoft"  # the domain of ONNX Runtime's own operators

Axis = int | str | None  # a size, its symbol, or neither known


def trace_back(value: ir.Value | None, *operators: str) -> ir.Value | None:
    """Walk back through producers of these types, last one first, to the first one's input."""
    for operator in operators:
        node = value.producer() if value is not None else None
        if node is None or node.op_type != operator:
            return None
        value = node.inputs[0]
    return value


def single_consumer(value: ir.Value, operator: str) -> ir.Node | None:
    """The only node that reads this value, if it is of that type."""
    consumers = list(value.consumers())
    if len(consumers) != 1 or consumers[0].op_type != operator or value.is_graph_output():
        return None
    return consumers[0]


def constant(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """An initializer of that name, made on first use."""
    if name not in graph.initializers:
        value = ir.Value(
            name=name,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        graph.register_initializer(value)
    return graph.initializers[name]


def insert_behind(graph: ir.Graph, value: ir.Value, *nodes: ir.Node) -> None:
    """Put nodes that read a value where it is there: behind its producer, or first of all."""
    producer = value.producer()
    if producer is not None:
        graph.insert_after(producer, nodes)
    else:
        graph.insert_before(graph[0], nodes)


def drop_unused_weights(graph: ir.Graph) -> None:
    """Remove every initializer that nothing reads."""
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]


class Writer:
    """Writes nodes in front of a node, or at the graph's end; every result has its type and axes.

    Nodes and their results are named below `prefix`. `shared` are results that several places of
    a graph can read, by whatever makes them equal.
    """

    def __init__(
        self,
        graph: ir.Graph,
        before: ir.Node | None,
        *,
        prefix: str,
        shared: dict[Hashable, ir.Value] | None = None,
    ) -> None:
        self.graph, self.before, self.prefix = graph, before, prefix
        self.shared = {} if shared is None else shared
        self._count = 0

    def add(
        self,
        operator: str,
        inputs: Sequence[ir.Value],
        axes: Sequence[Axis],
        dtype: ir.DataType | None = None,
        **attributes: int | Sequence[int],
    ) -> ir.Value:
        """A node with one result, of the type of its first input unless `dtype` says another."""
        return self.add_all(operator, inputs, [axes], dtype, **attributes)[0]

    def add_all(
        self,
        operator: str,
        inputs: Sequence[ir.Value],
        axes: Sequence[Sequence[Axis]],
        dtype: ir.DataType | None = None,
        **attributes: int | Sequence[int],
    ) -> Sequence[ir.Value]:
        """A node with a result for each of `axes`."""
        name = f"{self.prefix}/{operator.lower()}_{self._count}"
        self._count += 1
        node = ir.node(operator, inputs, attributes, num_outputs=len(axes), name=name)
        for index, (made, shape) in enumerate(zip(node.outputs, axes, strict=True)):
            made.name = f"{name}.{index}" if index else name
            made.shape = ir.Shape(shape)
            made.type = ir.TensorType(dtype or inputs[0].dtype or ir.DataType.UNDEFINED)
        if self.before is not None:
            self.graph.insert_before(self.before, node)
        else:
            self.graph.append(node)
        return node.outputs

    def replace_with(self, new: ir.Value) -> None:
        """`new` takes the place and the name of the result of the node that was written before."""
        old = self.before
        assert old is not None
        ir.convenience.replace_nodes_and_values(self.graph, old, [old], [], old.outputs, [new])

    def integers(self, *values: int) -> ir.Value:
        """A vector."""
        array = np.array(values, dtype=np.int64)
        name = f"constant.{'_'.join(map(str, values))}"
        return constant(self.graph, name, ir.tensor(array, name=name))

    def integer(self, value: int) -> ir.Value:
        """A scalar."""
        name = f"constant.scalar_{value}"
        array = np.array(value, dtype=np.int64)
        return constant(self.graph, name, ir.tensor(array, name=name))

    def number(self, number: float, dtype: ir.DataType) -> ir.Value:
        """A scalar of a float type."""
        name = f"constant.{number!r}.{dtype.name.lower()}"
        array = np.array(number, dtype=dtype.numpy())
        return constant(self.graph, name, ir.tensor(array, dtype, name=name))

    def size(self, value: ir.Value, axis: int) -> ir.Value:
        """The size of an axis, int64 (1,)."""
        return self.add("Shape", [value], (1,), ir.DataType.INT64, start=axis, end=axis + 1)

    def positions(self, value: ir.Value, axis: int) -> ir.Value:
        """0, 1, ... along an axis of a value, int64."""
        size = self.add("Squeeze", [self.size(value, axis), self.integers(0)], ())
        inputs = [self.integer(0), size, self.integer(1)]
        return self.add("Range", inputs, (known_axes(value)[axis],))

    def along(self, vector: ir.Value, axis: int) -> ir.Value:
        """A vector as one of four axes; the others are of size 1."""
        axes: list[Axis] = [1, 1, 1, 1]
        axes[axis] = known_axes(vector)[0]
        others = self.integers(*(i for i in range(4) if i != axis))
        return self.add("Unsqueeze", [vector, others], axes)


def known_axes(value: ir.Value) -> list[Axis]:
    """Sizes and symbols of a value whose rank is known."""
    assert value.shape is not None
    return [axis if isinstance(axis, int) else axis.value for axis in value.shape]
