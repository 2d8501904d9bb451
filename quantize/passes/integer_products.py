"""Products of 8-bit inputs with 8-bit weights, in ONNX Runtime's form.

1. `MatMul(x, W)` with a constant W (K, N) becomes `DynamicQuantizeMatMul`, which finds the range of
   x at every call; or, where the range of x is known, `QuantizeLinear` and `MatMulIntegerToFloat`.
2. `Gemm(x, W, c)` with a constant W (N, K) read transposed becomes the same.
3. What is added to the result, one number a column, is added by the operator.

Embeddings and LM heads are left: their form is `block_weights`'. Inputs are unsigned with 128 for
zero, weights signed: the one pair of types that kernels for AMX take (four times as fast as two
unsigned ones on a Xeon that has it). Kernels for processors without VNNI add pairs of such products
in 16 bits, where large ones saturate: for those the backend asks ONNX Runtime to shift the weights
as it loads them (`session.x64quantprecision`). The codes are those that TensorRT reads.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import onnx_ir as ir

from seq2edge.export.passes.editing import (
    CONTRIB,
    constant,
    drop_unused_weights,
    insert_behind,
    known_axes,
    single_consumer,
)
from seq2edge.quantize.passes.block_weights import is_plain, replace_product
from seq2edge.quantize.passes.dequantized_weights import LARGEST_CODE, ScaledWeight, scale_columns
from seq2edge.quantize.passes.weight_uses import PRODUCTS, WeightUse, find_weight_uses

ZERO = 128
FLOAT32 = np.dtype(np.float32)


class IntegerProducts(ir.passes.InPlacePass):
    """See the module's rules. `changed` tells what became of every weight, by its name.

    `ranges` are the largest absolute values of products' inputs, by those inputs' names; None finds
    them at every call. `higher_precision` names weights that are left.
    """

    def __init__(
        self,
        tables: set[int],
        ranges: Mapping[str, float] | None,
        higher_precision: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        self.tables = tables
        self.ranges = ranges
        self.higher_precision = higher_precision
        self.changed: dict[str, str] = {}
        self._scaled: dict[Hashable, ScaledWeight] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply both rules everywhere."""
        graph = model.graph
        for use in find_weight_uses(graph, self.tables):
            inputs = use.node.inputs[0]
            fits = use.kind != "table" and use.node.op_type in PRODUCTS and is_plain(use.node)
            if not fits or inputs is None or use.name in self.higher_precision:
                continue
            if self.ranges is not None and not self.ranges.get(str(inputs.name)):
                continue  # it was 0 on every example
            product = self._product(graph, use, inputs)
            replace_product(graph, use.node, product)
            _add_inside(graph, product)
            how = "dynamic" if self.ranges is None else "static"
            self.changed[use.name] = f"int8, a scale a column, {how} inputs"
        drop_unused_weights(graph)
        graph.opset_imports.setdefault(CONTRIB, 1)
        return ir.passes.PassResult(model, modified=bool(self.changed))

    def _product(self, graph: ir.Graph, use: WeightUse, inputs: ir.Value) -> ir.Node:
        """The operator of rule 1 for a product, not yet in the graph."""
        key = use.storage_key
        if key not in self._scaled:
            self._scaled[key] = scale_columns(use, FLOAT32)
        scaled = self._scaled[key]
        stored = scaled.codes.numpy()
        signed = np.ascontiguousarray(stored.T if use.transposed else stored)  # (K, N)
        codes = constant(graph, f"{use.name}.codes", ir.Tensor(signed))
        scales = constant(graph, f"{use.name}.scales", scaled.scales)
        zeros = np.zeros(scaled.scales.shape.numpy(), dtype=np.int8)
        zero = constant(graph, f"{use.name}.zeros", ir.Tensor(zeros))
        if self.ranges is None:
            values = [inputs, codes, scales, zero]
            return ir.node("DynamicQuantizeMatMul", values, domain=CONTRIB, name=use.node.name)
        quantized, step, middle = self._input(graph, inputs, self.ranges[str(inputs.name)])
        values = [quantized, codes, step, scales, middle, zero]
        return ir.node("MatMulIntegerToFloat", values, domain=CONTRIB, name=use.node.name)

    def _input(
        self, graph: ir.Graph, value: ir.Value, largest: float
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Codes, scale and zero of a product's input; products that read the same share them."""
        step = np.array(largest / LARGEST_CODE, dtype=np.float32)
        scale = constant(graph, f"{value.name}.scale", ir.Tensor(step))
        middle = constant(graph, "quantized.middle", ir.Tensor(np.array(ZERO, dtype=np.uint8)))
        for node, _ in value.uses():
            if node.op_type == "QuantizeLinear" and node.inputs[1] is scale:
                return node.outputs[0], scale, middle
        node = ir.node("QuantizeLinear", [value, scale, middle], name=f"{value.name}.quantize")
        codes = node.outputs[0]
        codes.name, codes.shape = f"{value.name}.codes", value.shape
        codes.type = ir.TensorType(ir.DataType.UINT8)
        insert_behind(graph, value, node)
        return codes, scale, middle


def _add_inside(graph: ir.Graph, product: ir.Node) -> None:
    """Rule 3, where nothing else reads the product alone."""
    result = product.outputs[0]
    add = single_consumer(result, "Add")
    if add is None:
        return
    addend = next((value for value in add.inputs if value is not result), None)
    codes = product.inputs[1]
    assert codes is not None
    if addend is None or not addend.is_initializer():
        return
    if known_axes(addend) != known_axes(codes)[1:]:
        return
    inputs = [*product.inputs, addend]
    new = ir.node(product.op_type, inputs, domain=CONTRIB, name=product.name)
    ir.convenience.replace_nodes_and_values(
        graph, add, [product, add], [new], add.outputs, new.outputs
    )
