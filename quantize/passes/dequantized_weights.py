"""Put integer weights behind `DequantizeLinear`, in the forms that TensorRT's products read.

1. 8-bit weights have one scale a column: blocks would be written out as floats at every call.
2. 4-bit weights have blocks along the inner axis, two at least, none cut short.
3. Of a weight that is stored transposed, and of an embedding, the scales follow its layout; a tied
   table has one `DequantizeLinear`.
4. Weights with an odd number of columns stay float: no product reads those as integers.
5. Where the largest input of a product is known, it is quantized too, to symmetric 8 bits, and the
   product computes in integers. Embeddings and LM heads have no such input.

Scales have the activations' type: the pass that narrows those goes after this one. Which forms are
read as they are was seen in TensorRT-RTX 1.7's reports
(tests/export/tensorrt/test_engine_quantized.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge.export.passes.editing import constant, drop_unused_weights, insert_behind
from seq2edge.quantize.passes.block_weights import QuantizedWeights
from seq2edge.quantize.passes.weight_uses import WeightUse, find_weight_uses

LARGEST_CODE = 127


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaledWeight:
    """Codes in the layout that the weight is stored in, scales, and what they go along."""

    codes: ir.TensorProtocol
    scales: ir.TensorProtocol  # float32 numbers that the activations' type has too
    axis: int
    block: int  # 0: one scale for each index of `axis`


class ScaledWeights:
    """Each weight of a bundle in that form, made once however many graphs read it."""

    def __init__(self, weights: QuantizedWeights, dtype: str) -> None:
        """`dtype` names the type of the activations, which scales are rounded to."""
        self.weights = weights
        self.dtype = np.dtype(dtype)
        self._scaled: dict[Hashable, ScaledWeight | None] = {}

    def scaled(self, use: WeightUse) -> ScaledWeight | None:
        """A weight in that form; None to keep floats."""
        key = (use.storage_key, use.transposed)
        if key not in self._scaled:
            self._scaled[key] = self._scale(use)
        return self._scaled[key]

    def _scale(self, use: WeightUse) -> ScaledWeight | None:
        """By rules 1, 2 and 4; codes and scales in the layout that the weight is stored in."""
        requested = self.weights.requested_format(use)
        if requested is None:
            return None
        inner, outer = use.weight().shape
        if outer % 2:
            return None
        if requested.bits == 8:
            return scale_columns(use, self.dtype)
        blocked = self.weights.blocked(use)
        if blocked is None or inner < 2 * blocked.block:
            return None
        low, high = blocked.packed & 15, blocked.packed >> 4
        codes = np.stack([low, high], axis=-1).reshape(outer, inner).astype(np.int8) - 8
        scales = blocked.scales.reshape(outer, -1)
        # A scale that the activations' type has no number for becomes 1 below: with codes of 0.
        codes[np.repeat(scales.astype(self.dtype) == 0, blocked.block, axis=1)] = 0
        if not use.transposed:
            codes, scales = codes.T, scales.T
        tensor = ir.Tensor(
            np.ascontiguousarray(codes).astype(ml_dtypes.int4), dtype=ir.DataType.INT4
        )
        return ScaledWeight(
            codes=tensor,
            scales=_rounded(scales, self.dtype),
            axis=1 if use.transposed else 0,
            block=blocked.block,
        )


def scale_columns(use: WeightUse, dtype: np.dtype[Any]) -> ScaledWeight:
    """Symmetric 8 bits, a scale for each column: the largest value becomes 127."""
    weight = use.weight()
    scales = _rounded(np.abs(weight).max(axis=0) / LARGEST_CODE, dtype)
    codes = np.round(weight / scales.numpy())  # of the scales as the engine has them
    codes = np.clip(codes, -LARGEST_CODE, LARGEST_CODE).astype(np.int8)
    stored = np.ascontiguousarray(codes.T if use.transposed else codes)
    return ScaledWeight(
        codes=ir.Tensor(stored), scales=scales, axis=0 if use.transposed else 1, block=0
    )


def _rounded(scales: NDArray[np.float32], dtype: np.dtype[Any]) -> ir.TensorProtocol:
    """Scales as `dtype` has them; 1 for what is all zeros, or nothing in that type."""
    rounded = np.ascontiguousarray(scales).astype(dtype).astype(np.float32)
    return ir.Tensor(np.where(rounded == 0, np.float32(1), rounded))


class DequantizedWeights(ir.passes.InPlacePass):
    """See the module's rules. `changed` tells what became of every weight, by its name.

    `ranges` are the largest absolute values of products' inputs, by those inputs' names.
    """

    def __init__(self, weights: ScaledWeights, ranges: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.weights = weights
        self.ranges = ranges or {}
        self.changed: dict[str, str] = {}
        self._values: dict[str, ir.Value] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply all rules everywhere."""
        graph = model.graph
        self._values = {}
        for use in find_weight_uses(graph, self.weights.weights.tables):
            scaled = self.weights.scaled(use)
            if scaled is None:
                self.changed[use.name] = "float32"
                continue
            index = list(use.node.inputs).index(use.value)
            use.node.replace_input_with(index, self._weight(graph, use, scaled))
            bits = 4 if scaled.block else 8
            form = f"blocks of {scaled.block}" if scaled.block else "a scale a column"
            inputs = use.node.inputs[0]
            if use.kind != "table" and inputs is not None and inputs.name in self.ranges:
                use.node.replace_input_with(0, self._input(graph, inputs))
                form += ", inputs int8"
            self.changed[use.name] = f"int{bits}, {form}"
        drop_unused_weights(graph)
        return ir.passes.PassResult(model, modified=bool(self.changed))

    def _weight(self, graph: ir.Graph, use: WeightUse, scaled: ScaledWeight) -> ir.Value:
        name = f"{use.name}.dequantized"
        if name not in self._values:
            codes = constant(graph, f"{use.name}.codes", scaled.codes)
            scales = constant(graph, f"{use.name}.scales", scaled.scales)
            attributes = {"axis": scaled.axis} | (
                {"block_size": scaled.block} if scaled.block else {}
            )
            node = ir.node("DequantizeLinear", [codes, scales], attributes, name=name)
            self._values[name] = self._add(graph, node, use.value, name)
        return self._values[name]

    def _input(self, graph: ir.Graph, value: ir.Value) -> ir.Value:
        name = f"{value.name}.dequantized"
        if name not in self._values:
            step = np.array(self.ranges[str(value.name)] / LARGEST_CODE, dtype=np.float32)
            scale = constant(graph, f"{value.name}.scale", ir.Tensor(step))
            zero = constant(graph, "quantized.zero", ir.Tensor(np.array(0, dtype=np.int8)))
            down = ir.node("QuantizeLinear", [value, scale, zero], name=f"{value.name}.quantize")
            codes = down.outputs[0]
            codes.name, codes.shape = f"{value.name}.codes", value.shape
            codes.type = ir.TensorType(ir.DataType.INT8)
            up = ir.node("DequantizeLinear", [codes, scale, zero], name=name)
            self._values[name] = self._add(graph, up, value, name)
            graph.insert_before(up, down)
        return self._values[name]

    def _add(self, graph: ir.Graph, node: ir.Node, like: ir.Value, name: str) -> ir.Value:
        """Put the node behind `like`; its result has that shape."""
        value = node.outputs[0]
        value.name, value.shape, value.type = name, like.shape, ir.TensorType(ir.DataType.FLOAT)
        insert_behind(graph, like, node)
        return value
