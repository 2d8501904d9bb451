"""Turn a float32 graph into a half-precision one, but for what would overflow.

1. Values become `dtype`, weights and caches with them. A value named in `keep_float32` stays, and a
   node that reads or writes one computes in float32, between casts. What it becomes between
   `QuantizeLinear` and `DequantizeLinear` counts as the value itself.
2. What people feed and read (features, pixels, logits, embeddings) stays float32 at the graph's
   edge.
3. A weight too large for `dtype` makes the nodes that read it compute in float32.
4. What is computed of integers alone does too: half precision does not tell position 2049 from
   2048, or bfloat16 257 from 256, and rotary angles would be those of others.
5. `DequantizeLinear` gives float32 itself where nothing but such nodes reads it: a cast in between
   would keep a product from reading integers.

The nodes of rules 1 and 3 to 5 that compute in float32 are called islands. Integers and masks are
left alone. Ensures that the graph is strongly typed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge.bundle.contract import CROSS, PRESENT
from seq2edge.errors import ExportError
from seq2edge.export.passes.editing import trace_back
from seq2edge.quantize.passes.weight_uses import storage_key

FLOAT = ir.DataType.FLOAT
INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)
ARRAYS = {ir.DataType.FLOAT16: np.float16, ir.DataType.BFLOAT16: ml_dtypes.bfloat16}
LARGEST = {ir.DataType.FLOAT16: 65504.0, ir.DataType.BFLOAT16: 3.3e38}
EDGES = ("features", "pixels", "logits", "embedding")  # float32 for whoever feeds and reads
CACHES = (PRESENT, CROSS)  # that leave the graph in `dtype`


@dataclasses.dataclass
class HalfPrecisionWeights:
    """Weights in half precision, made once however many graphs read them."""

    dtype: ir.DataType
    converted: dict[Hashable, ir.TensorProtocol] = dataclasses.field(default_factory=dict)

    def convert(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        """The tensor in `dtype`; the same stored bytes give the same memory."""
        key = (storage_key(tensor), tuple(tensor.shape))
        if key not in self.converted:
            array: NDArray[np.generic] = tensor.numpy().astype(ARRAYS[self.dtype])
            self.converted[key] = ir.Tensor(array, dtype=self.dtype)
        return self.converted[key]

    def fits(self, tensor: ir.TensorProtocol) -> bool:
        """Whether every value stays finite."""
        if np.prod(tensor.shape.numpy()) == 0:
            return True
        return bool(np.abs(tensor.numpy()).max() <= LARGEST[self.dtype])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Floats:
    """A graph's float32 tensors before the pass: which values, and which weights."""

    values: set[ir.Value]
    weights: set[ir.Value]

    def read_by(self, node: ir.Node) -> set[ir.Value]:
        """The values, weights not among them, that a node computes of."""
        return {value for value in node.inputs if value is not None and value in self.values}

    def written_by(self, node: ir.Node) -> set[ir.Value]:
        """The values that a node computes."""
        return {value for value in node.outputs if value in self.values}


class ToHalfPrecision(ir.passes.InPlacePass):
    """See the module's rules. `islands` names the nodes that compute in float32."""

    def __init__(
        self, weights: HalfPrecisionWeights, keep_float32: frozenset[str] = frozenset()
    ) -> None:
        super().__init__()
        self.weights = weights
        self.keep_float32 = keep_float32
        self.islands: list[str] = []
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply all rules everywhere: find the islands, then type the nodes, then the edges."""
        graph = model.graph
        self._casts = {}
        floats = _find_floats(graph)
        islands = self._find_islands(graph, floats)
        self.islands = [str(node.name) for node in graph if node in islands]
        self._type_inputs(graph, floats)
        for node in list(graph):
            dtype = FLOAT if node in islands else self.weights.dtype
            self._type_node(graph, node, floats, dtype)
        self._type_outputs(graph, floats)
        for weight in floats.weights:
            if not weight.uses():
                del graph.initializers[str(weight.name)]
        return ir.passes.PassResult(model, modified=True)

    def _find_islands(self, graph: ir.Graph, floats: _Floats) -> set[ir.Node]:
        """The nodes that compute in float32, by rules 1, 3, 4 and 5.

        The graph is in topological order: what a node reads is decided before it.
        """
        islands = self._around_kept_values(graph, floats)  # rule 1
        islands |= self._of_large_weights(graph, floats)  # rule 3
        islands |= _of_integers(graph, floats)  # rule 4
        for node in graph:  # rule 5
            readers = list(node.outputs[0].consumers())
            if node.op_type == "DequantizeLinear" and readers and islands.issuperset(readers):
                islands.add(node)
        return islands

    def _around_kept_values(self, graph: ir.Graph, floats: _Floats) -> set[ir.Node]:
        """Rule 1: the nodes that read or write a value that stays float32."""
        kept = {value for value in floats.values if value.name in self.keep_float32}
        islands: set[ir.Node] = set()
        for node in graph:
            writes = floats.written_by(node)
            if _quantized_source(node) in kept:
                kept |= writes
            if not kept.isdisjoint(floats.read_by(node) | writes):
                islands.add(node)
        return islands

    def _of_large_weights(self, graph: ir.Graph, floats: _Floats) -> set[ir.Node]:
        """Rule 3: the nodes that read a weight with values beyond the type's largest."""
        large = {
            weight
            for weight in floats.weights
            if weight.const_value is not None and not self.weights.fits(weight.const_value)
        }
        return {node for node in graph if any(value in large for value in node.inputs)}

    def _type_inputs(self, graph: ir.Graph, floats: _Floats) -> None:
        """Rules 1 and 2: caches come in half precision, features as they are."""
        for value in graph.inputs:
            if value in floats.values and value.name not in EDGES:
                value.type = ir.TensorType(self.weights.dtype)

    def _type_node(
        self, graph: ir.Graph, node: ir.Node, floats: _Floats, dtype: ir.DataType
    ) -> None:
        """Give a node inputs of that type, and its outputs the type."""
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            if value in floats.weights and dtype != FLOAT:
                node.replace_input_with(index, self._weight(graph, value))
            elif value in floats.values and value.dtype != dtype:
                node.replace_input_with(index, self._cast(graph, node, value, dtype))
        writes = floats.written_by(node)
        for value in writes:
            value.type = ir.TensorType(dtype)
        if node.op_type == "Cast" and writes:
            node.attributes["to"] = ir.AttrInt64("to", dtype.value)

    def _weight(self, graph: ir.Graph, value: ir.Value) -> ir.Value:
        """The weight in half precision as a further initializer; one for all nodes that read it."""
        key = (value, self.weights.dtype)
        if key not in self._casts:
            assert value.const_value is not None
            tensor = self.weights.convert(value.const_value)
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
        self, graph: ir.Graph, before: ir.Node, value: ir.Value, dtype: ir.DataType
    ) -> ir.Value:
        """The value cast to that type, in front of its first reader; one cast for all of them."""
        key = (value, dtype)
        if key not in self._casts:
            node = ir.node("Cast", [value], {"to": dtype.value})
            node.outputs[0].type, node.outputs[0].shape = ir.TensorType(dtype), value.shape
            graph.insert_before(before, node)
            self._casts[key] = node.outputs[0]
        return self._casts[key]

    def _type_outputs(self, graph: ir.Graph, floats: _Floats) -> None:
        """Rules 1 and 2: cast an output to what the graph's reader takes. The name goes with it.

        Raises ExportError for a cache that would have to stay float32.
        """
        for index, value in enumerate(graph.outputs):
            name, half = str(value.name), self.weights.dtype
            if value not in floats.values:
                continue
            if name.startswith(CACHES) and name in self.keep_float32:
                raise ExportError(
                    f"half precision: {name} comes near the limits of {half.name.lower()}, "
                    "and caches have that type; use bf16"
                )
            dtype = FLOAT if name in EDGES else half
            if value.dtype == dtype:
                continue
            node = ir.node("Cast", [value], {"to": dtype.value})
            new = node.outputs[0]
            value.name, new.name = f"{name}.{half.name.lower()}", name
            new.type, new.shape = ir.TensorType(dtype), value.shape
            graph.append(node)
            graph.outputs[index] = new


def _find_floats(graph: ir.Graph) -> _Floats:
    """Raises ExportError for a value computed of floats whose own type nobody gave."""
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    floats = _Floats(
        values={value for value in values if value.dtype == FLOAT},
        weights={value for value in graph.initializers.values() if value.dtype == FLOAT},
    )
    both = floats.values | floats.weights
    unknown = [str(v.name) for v in values if v.dtype is None and _is_computed_of(v, both)]
    if unknown:
        raise ExportError(f"half precision: the types of {', '.join(unknown[:3])} are unknown")
    return floats


def _of_integers(graph: ir.Graph, floats: _Floats) -> set[ir.Node]:
    """Rule 4: casts of integers to floats, and what computes of nothing but their results."""
    counts: set[ir.Value] = set()
    islands: set[ir.Node] = set()
    for node in graph:
        reads = floats.read_by(node)
        if _is_count(node) or (reads and reads <= counts):
            counts |= floats.written_by(node)
            islands.add(node)
    return islands


def _quantized_source(node: ir.Node) -> ir.Value | None:
    """The value that a `DequantizeLinear` gives back after a `QuantizeLinear`."""
    if node.op_type != "DequantizeLinear":
        return None
    return trace_back(node.inputs[0], "QuantizeLinear")


def _is_count(node: ir.Node) -> bool:
    """Whether it makes floats of integers: of positions and lengths."""
    value = node.inputs[0] if node.op_type == "Cast" else None
    return value is not None and value.dtype in INTEGERS


def _is_computed_of(value: ir.Value, floats: set[ir.Value]) -> bool:
    node = value.producer()
    return node is not None and any(v in floats for v in node.inputs if v is not None)
