"""Writing the nodes that take the place of another one."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import onnx_ir as ir

from seq2edge.export.passes import constant

Axis = int | str | None  # a size, its symbol, or neither known


class Writer:
    """Writes nodes in front of the one that they replace; every result has its type and axes.

    `shared` are results that several replaced nodes can read, by whatever makes them equal.
    """

    def __init__(self, graph: ir.Graph, old: ir.Node, shared: dict[Hashable, ir.Value]) -> None:
        self.graph, self.old, self.shared = graph, old, shared
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
        name = f"{self.old.name}/{operator.lower()}_{self._count}"
        self._count += 1
        node = ir.node(operator, inputs, attributes, num_outputs=len(axes), name=name)
        for index, (made, shape) in enumerate(zip(node.outputs, axes, strict=True)):
            made.name = f"{name}.{index}" if index else name
            made.shape = ir.Shape(shape)
            made.type = ir.TensorType(dtype or inputs[0].dtype or ir.DataType.UNDEFINED)
        self.insert(node)
        return node.outputs

    def insert(self, node: ir.Node) -> None:
        """Where new nodes go."""
        self.graph.insert_before(self.old, node)

    def replace_with(self, new: ir.Value) -> None:
        """Whatever read the old node's result reads the new one, which takes over its name."""
        before = self.old.outputs[0]
        new.name, new.shape, new.type = before.name, before.shape, before.type
        ir.convenience.replace_all_uses_with(before, new, replace_graph_outputs=True)
        before.name = None
        self.graph.remove(self.old, safe=True)

    def integers(self, *values: int) -> ir.Value:
        """A vector."""
        array = np.array(values, dtype=np.int64)
        name = f"lowered.{'_'.join(map(str, values))}"
        return constant(self.graph, name, ir.tensor(array, name=name))

    def integer(self, value: int) -> ir.Value:
        """A scalar."""
        name = f"lowered.scalar_{value}"
        array = np.array(value, dtype=np.int64)
        return constant(self.graph, name, ir.tensor(array, name=name))

    def number(self, number: float, dtype: ir.DataType) -> ir.Value:
        """A scalar of a float type."""
        name = f"lowered.{number!r}.{dtype.name.lower()}"
        array = np.array(number, dtype=dtype.numpy())
        return constant(self.graph, name, ir.tensor(array, dtype, name=name))

    def size(self, value: ir.Value, axis: int) -> ir.Value:
        """The size of an axis, int64 (1,)."""
        return self.add("Shape", [value], (1,), ir.DataType.INT64, start=axis, end=axis + 1)


def axes_of(value: ir.Value) -> list[Axis]:
    """Sizes and symbols of a value whose rank is known."""
    assert value.shape is not None
    return [axis if isinstance(axis, int) else axis.value for axis in value.shape]
