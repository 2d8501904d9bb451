"""Turn a float32 graph into a half-precision one, but for what would overflow.

1. Values become `dtype`, weights and caches with them. A value named in `wide` stays float32, and a
   node that reads or writes one computes in float32, between casts. What it becomes between
   `QuantizeLinear` and `DequantizeLinear` counts as the value itself.
2. Outputs that people read (logits, embeddings) and features stay float32 at the graph's edge.
3. A weight too large for `dtype` makes the nodes that read it compute in float32.
4. What is computed of integers alone does too: half precision does not tell position 2049 from
   2048, or bfloat16 257 from 256, and rotary angles would be those of others.
5. `DequantizeLinear` gives float32 itself where nothing but such nodes reads it: a cast in between
   would keep a product from reading integers.

Integers and masks are left alone. Ensures that the graph is strongly typed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge.errors import ExportError
from seq2edge.export.passes.editing import trace_back
from seq2edge.quantize.passes.sites import place_of

FLOAT = ir.DataType.FLOAT
INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)
ARRAYS = {ir.DataType.FLOAT16: np.float16, ir.DataType.BFLOAT16: ml_dtypes.bfloat16}
LARGEST = {ir.DataType.FLOAT16: 65504.0, ir.DataType.BFLOAT16: 3.3e38}
EDGES = ("features", "logits", "embedding")  # float32 for whoever feeds and reads
CACHES = ("present_", "cross_")  # that leave the graph in `dtype`


@dataclasses.dataclass
class NarrowedWeights:
    """Weights in half precision, made once however many graphs read them."""

    dtype: ir.DataType
    made: dict[Hashable, ir.TensorProtocol] = dataclasses.field(default_factory=dict)

    def of(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        """The tensor in `dtype`; equal places give the same memory."""
        key = (place_of(tensor), tuple(tensor.shape))
        if key not in self.made:
            array: NDArray[np.generic] = tensor.numpy().astype(ARRAYS[self.dtype])
            self.made[key] = ir.Tensor(array, dtype=self.dtype)
        return self.made[key]

    def holds(self, tensor: ir.TensorProtocol) -> bool:
        """Whether every value stays finite."""
        if np.prod(tensor.shape.numpy()) == 0:
            return True
        return bool(np.abs(tensor.numpy()).max() <= LARGEST[self.dtype])


class Narrow(ir.passes.InPlacePass):
    """See the module's rules. `islands` names the nodes that compute in float32."""

    def __init__(self, weights: NarrowedWeights, wide: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.weights = weights
        self.wide = wide
        self.islands: list[str] = []
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply all rules everywhere."""
        graph, narrow = model.graph, self.weights.dtype
        self._casts = {}
        values = [*graph.inputs, *(v for node in graph for v in node.outputs)]
        floats = {v for v in values if v.dtype == FLOAT}
        weights = {v for v in graph.initializers.values() if v.dtype == FLOAT}
        unknown = [v.name for v in values if v.dtype is None and _made_of(v, floats | weights)]
        if unknown:
            raise ExportError(
                f"narrow: the types of {', '.join(map(str, unknown[:3]))} are unknown"
            )
        for value in graph.inputs:
            if value in floats and value.name not in EDGES:
                value.type = ir.TensorType(narrow)
        islands = self._find_islands(graph, floats, weights)
        self.islands = [str(node.name) for node in graph if node in islands]
        for node in list(graph):
            self._node(graph, node, floats, weights, FLOAT if node in islands else narrow)
        for index, value in enumerate(graph.outputs):
            if value in floats:
                self._edge(graph, index, value)
        for name in [n for n, v in graph.initializers.items() if v in weights and not v.uses()]:
            del graph.initializers[name]
        return ir.passes.PassResult(model, modified=True)

    def _find_islands(
        self, graph: ir.Graph, floats: set[ir.Value], weights: set[ir.Value]
    ) -> set[ir.Node]:
        """The nodes that compute in float32."""
        wide = {value for value in floats if value.name in self.wide}
        counts: set[ir.Value] = set()  # floats made of integers
        islands: set[ir.Node] = set()
        for node in graph:
            reads = {v for v in node.inputs if v is not None and v in floats}
            writes = {v for v in node.outputs if v in floats}
            if _quantized_source(node) in wide:
                wide |= writes
            constants = [v.const_value for v in node.inputs if v is not None and v in weights]
            if not all(self.weights.holds(t) for t in constants if t is not None):
                islands.add(node)
            if _is_count(node) or (reads and reads <= counts):
                counts |= writes
                islands.add(node)
            if not wide.isdisjoint(reads | writes):
                islands.add(node)
        for node in graph:
            readers = list(node.outputs[0].consumers())
            if node.op_type == "DequantizeLinear" and readers and islands.issuperset(readers):
                islands.add(node)
        return islands

    def _node(
        self,
        graph: ir.Graph,
        node: ir.Node,
        floats: set[ir.Value],
        weights: set[ir.Value],
        wanted: ir.DataType,
    ) -> None:
        """Give a node inputs of the wanted type, and its outputs that type."""
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            if value in weights and wanted != FLOAT:
                node.replace_input_with(index, self._weight(graph, value))
            elif value in floats and value.dtype != wanted:
                node.replace_input_with(index, self._cast(graph, node, value, wanted))
        writes = [value for value in node.outputs if value in floats]
        for value in writes:
            value.type = ir.TensorType(wanted)
        if node.op_type == "Cast" and writes:
            node.attributes["to"] = ir.AttrInt64("to", wanted.value)

    def _weight(self, graph: ir.Graph, value: ir.Value) -> ir.Value:
        key = (value, self.weights.dtype)
        if key not in self._casts:
            assert value.const_value is not None
            tensor = self.weights.of(value.const_value)
            name = f"{value.name}.{self.weights.dtype.name.lower()}"
            new = ir.Value(
                name=name,
                shape=value.shape,
                type=ir.TensorType(tensor.dtype),
                const_value=ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name),
            )
            graph.register_initializer(new)
            self._casts[key] = new
        return self._casts[key]

    def _cast(
        self, graph: ir.Graph, before: ir.Node, value: ir.Value, wanted: ir.DataType
    ) -> ir.Value:
        key = (value, wanted)
        if key not in self._casts:
            node = ir.node("Cast", [value], {"to": wanted.value})
            node.outputs[0].type, node.outputs[0].shape = ir.TensorType(wanted), value.shape
            graph.insert_before(before, node)
            self._casts[key] = node.outputs[0]
        return self._casts[key]

    def _edge(self, graph: ir.Graph, index: int, value: ir.Value) -> None:
        """Cast an output to what the graph's reader takes."""
        name = str(value.name)
        wanted = FLOAT if name in EDGES else self.weights.dtype
        if name.startswith(CACHES) and name in self.wide:
            raise ExportError(
                f"narrow: {name} comes near the limits of {self.weights.dtype.name.lower()}, "
                "and caches have that type; use bf16"
            )
        if value.dtype == wanted:
            return
        node = ir.node("Cast", [value], {"to": wanted.value})
        new = node.outputs[0]
        value.name, new.name = f"{name}.{self.weights.dtype.name.lower()}", name
        new.type, new.shape = ir.TensorType(wanted), value.shape
        graph.append(node)
        graph.outputs[index] = new


def _quantized_source(node: ir.Node) -> ir.Value | None:
    """The value that a `DequantizeLinear` gives back after a `QuantizeLinear`."""
    if node.op_type != "DequantizeLinear":
        return None
    return trace_back(node.inputs[0], "QuantizeLinear")


def _is_count(node: ir.Node) -> bool:
    """Whether it makes floats of integers: of positions and lengths."""
    value = node.inputs[0] if node.op_type == "Cast" else None
    return value is not None and value.dtype in INTEGERS


def _made_of(value: ir.Value, floats: set[ir.Value]) -> bool:
    node = value.producer()
    return node is not None and any(v in floats for v in node.inputs if v is not None)
