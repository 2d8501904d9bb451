"""What a graph's file tells of memory: bytes of weights, nodes, and the types of what flows.

Weights are only counted, never read: their sizes stand in the graph beside their places.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from seq2edge.errors import EngineError

BITS: dict[int, int] = {
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.BFLOAT16: 16,
    onnx.TensorProto.INT64: 64,
    onnx.TensorProto.INT32: 32,
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.BOOL: 8,
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
}
INTEGERS = (onnx.TensorProto.INT8, onnx.TensorProto.INT4)
PRODUCTS = ("Gemm", "MatMul")
PASSED_ON = ("DequantizeLinear", "Cast", "Transpose", "Reshape", "Identity")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphSizes:
    """Bytes of all weights, of those in tables (embeddings), and of tables that are kept twice.

    `repeated` is 0 where no table is an LM head too, or where both can read one array.
    `integer_head` is the number of values where it is both, in integers. `nodes` are counted, and
    `float_bytes` is the size of a number in the caches and between layers.
    """

    weights: int
    tables: int
    repeated: int
    integer_head: int
    nodes: int
    float_bytes: int


def read_sizes(graph: Path) -> GraphSizes:
    """Sizes of an ONNX file. Raises EngineError for one that cannot be read."""
    try:
        model = onnx.load(graph, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise EngineError(f"{graph}: cannot be read ({error})") from error
    if not model.graph.output:
        raise EngineError(f"{graph}: has no outputs, so it is no graph to build an engine of")
    weights, readers = model.graph.initializer, _readers(model.graph)
    tables = [t for t in weights if len(t.dims) == 2 and "Gather" in readers.get(t.name, ())]
    heads = [table for table in tables if not readers[table.name].isdisjoint(PRODUCTS)]
    return GraphSizes(
        weights=sum(_bytes(tensor) for tensor in weights),
        tables=sum(_bytes(table) for table in tables),
        repeated=sum(_bytes(head) for head in heads if _is_kept_twice(head)),
        integer_head=sum(math.prod(head.dims) for head in heads if head.data_type in INTEGERS),
        nodes=len(model.graph.node),
        float_bytes=_float_bytes(model.graph),
    )


def _bytes(tensor: onnx.TensorProto) -> int:
    values: int = math.prod(tensor.dims)
    return (values * BITS.get(tensor.data_type, 32) + 7) // 8


def _readers(graph: onnx.GraphProto) -> dict[str, set[str]]:
    """The operators that read each value, also behind a change of its type or form."""
    readers: dict[str, set[str]] = {}
    for node in reversed(graph.node):  # who reads a result comes after it
        kinds, inputs = {node.op_type}, list(node.input)
        if node.op_type in PASSED_ON:
            kinds, inputs = readers.get(node.output[0], set()), inputs[:1]
        for name in inputs:
            readers.setdefault(name, set()).update(kinds)
    return readers


def _is_kept_twice(head: onnx.TensorProto) -> bool:
    """Whether an engine keeps a table in one form to look up in, in another to multiply with.

    One array serves both where its rows are even in number; else the product reads a copy with one
    more. Integers are kept transposed for the product. Both was seen in engines.
    """
    return head.data_type in INTEGERS or head.dims[0] % 2 == 1


def _float_bytes(graph: onnx.GraphProto) -> int:
    """Bytes of a number in the caches and between layers: the graph's narrowest float."""
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    kinds = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    kinds |= {tensor.data_type for tensor in graph.initializer}
    return min((BITS[kind] // 8 for kind in kinds if kind in floats), default=4)
