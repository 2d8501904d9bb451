"""Keep the decoder's own keys and values in 8 bits, for ONNX Runtime.

1. Every `GroupQueryAttention` gets a scale a channel for keys and one for values, each
   (1, kv_heads, 1, head_dim), and the caches that go in and out of the graph become int8. The
   kernel quantizes what it writes and reads the integers as they are.

Cross-attention's keys and values, computed once, stay float32. Release 1.32's kernel is the oldest
that this was seen to be right with.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge.export.passes.editing import constant
from seq2edge.quantize.passes.dequantized_weights import LARGEST_CODE

RELEASE = "1.32"
KEY_SCALE, VALUE_SCALE = 12, 13  # the operator's inputs
PRESENT = "present_"
MIN_CHANNEL = 1e-6  # a channel that is always 0 needs a scale too


class Int8Cache(ir.passes.InPlacePass):
    """See the module's rule. `channels` are the largest values (kv_heads, head_dim) by cache."""

    def __init__(self, channels: Mapping[str, NDArray[np.float32]]) -> None:
        super().__init__()
        self.channels = channels

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the rule everywhere; a graph without a decoder's attention stays as it is."""
        graph = model.graph
        attentions = [node for node in graph if node.op_type == "GroupQueryAttention"]
        caches = {value for node in attentions for value in (*node.inputs[3:5], *node.outputs[1:])}
        for node in attentions:
            node.resize_inputs(VALUE_SCALE + 1)
            for index, output in ((KEY_SCALE, 1), (VALUE_SCALE, 2)):
                name = str(node.outputs[output].name)
                largest = np.maximum(self.channels[name], MIN_CHANNEL)
                scales = (largest / LARGEST_CODE).astype(np.float32)[None, :, None, :]
                scale = constant(graph, f"{name}.scales", ir.Tensor(np.ascontiguousarray(scales)))
                node.replace_input_with(index, scale)
            for part in ("k", "v"):
                node.attributes[f"{part}_quant_type"] = ir.AttrString(
                    f"{part}_quant_type", "PER_CHANNEL"
                )
            node.attributes["kv_cache_bit_width"] = ir.AttrInt64("kv_cache_bit_width", 8)
        for value in (*graph.inputs, *graph.outputs):
            if value in caches:
                value.type = ir.TensorType(ir.DataType.INT8)
        return ir.passes.PassResult(model, modified=bool(attentions))
