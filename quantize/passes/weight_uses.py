"""Where the weights of a graph are, and what for."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge.bundle.contract import CROSS
from seq2edge.export.passes.shortlist import find_short_logits

PRODUCTS = ("MatMul", "Gemm")
ATTENTION = ("GroupQueryAttention", "MultiHeadAttention", "Attention")
QUERY_KEY_VALUE = 3  # the first inputs of every attention operator

Kind: TypeAlias = Literal["layers", "attention", "table"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightUse:
    """A node that reads a constant weight of two axes.

    kind: `table` for embeddings and LM heads, `attention` for queries, keys and values, else
    `layers`. Where `transposed` the weight is stored (N, K), else (K, N).
    """

    node: ir.Node
    value: ir.Value
    kind: Kind

    @property
    def name(self) -> str:
        """The weight's name in its graph."""
        return str(self.value.name)

    @property
    def layer(self) -> str:
        """The part of the model that it belongs to: "decoder.layers.3.feedforward"."""
        parts = self.name.removeprefix("model.").split(".")
        return ".".join(parts[:4] if "layers" in parts else parts[:1])

    @property
    def tensor(self) -> ir.TensorProtocol:
        """The weight as it is stored."""
        assert self.value.const_value is not None
        return self.value.const_value

    @property
    def transposed(self) -> bool:
        """Whether the weight is stored (N, K)."""
        return self.node.op_type != "MatMul"

    @property
    def inner(self) -> int:
        """K."""
        return self.tensor.shape.numpy()[1 if self.transposed else 0]

    @property
    def storage_key(self) -> Hashable:
        """The same for the same bytes, whichever graph reads them."""
        return storage_key(self.tensor)

    def weight(self) -> NDArray[np.float32]:
        """(K, N)."""
        stored: NDArray[np.float32] = self.tensor.numpy()
        return stored.T if self.transposed else stored


def storage_key(tensor: ir.TensorProtocol) -> Hashable:
    """The same for the same bytes: of a weights file by their place, in memory by their hash."""
    if isinstance(tensor, ir.ExternalTensor):
        return (tensor.offset, tensor.length)
    return hashlib.sha256(tensor.tobytes()).hexdigest()


def find_weight_uses(graph: ir.Graph, tables: set[int]) -> list[WeightUse]:
    """All products with, and embeddings of, a constant weight; `tables` are vocabularies' sizes.

    The product of a shortlist is a table too, of whatever size.
    """
    short = find_short_logits(graph)
    uses = []
    for node in graph:
        value = _weight_of(node, tables)
        if value is None or value.const_value is None:
            continue
        shape = value.const_value.shape
        outer = shape[0 if node.op_type != "MatMul" else 1]
        if outer in tables or (short is not None and node is short.product):
            uses.append(WeightUse(node=node, value=value, kind="table"))
        else:
            kind: Kind = "attention" if _attends(node) else "layers"
            uses.append(WeightUse(node=node, value=value, kind=kind))
    return uses


def product_inputs(uses: Sequence[WeightUse]) -> dict[str, list[WeightUse]]:
    """The inputs of products that are no LM heads, with the weights that each meets."""
    inputs: dict[str, list[WeightUse]] = defaultdict(list)
    for use in uses:
        value = use.node.inputs[0]
        if use.kind != "table" and value is not None:
            inputs[str(value.name)].append(use)
    return inputs


def _weight_of(node: ir.Node, tables: set[int]) -> ir.Value | None:
    if node.op_type not in (*PRODUCTS, "Gather") or node.domain:
        return None
    value = node.inputs[0 if node.op_type == "Gather" else 1]
    if value is None or value.const_value is None or len(value.const_value.shape) != 2:
        return None
    if node.op_type == "Gather" and value.const_value.shape[0] not in tables:
        return None
    return value


def _attends(node: ir.Node) -> bool:
    """Whether a product's result reaches an attention before any other product.

    Cross-attention's keys and values leave the encoder for it, as outputs.
    """
    waiting, visited = list(node.outputs), set()
    while waiting:
        value = waiting.pop()
        if value in visited:
            continue
        visited.add(value)
        if value.is_graph_output() and str(value.name).startswith(CROSS):
            return True
        for user, index in value.uses():
            if user.op_type in ATTENTION:
                if index < QUERY_KEY_VALUE:
                    return True
            elif user.op_type not in PRODUCTS:
                waiting += user.outputs
    return False
