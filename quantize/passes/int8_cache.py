"""Keep the decoder's own keys and values in 8 bits, for ONNX Runtime.

1. Every `GroupQueryAttention` gets a scale a channel for keys and one for values, each
   (1, kv_heads, 1, head_dim), and the caches that go in and out of the graph become int8. The
   kernel quantizes what it writes and reads the integers as they are.

Cross-attention's keys and values are int8_memory.py's. Release 1.32's kernel is the oldest that
this was seen to be right with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge.export.passes.editing import constant
from seq2edge.quantize.passes.dequantized_weights import LARGEST_CODE

RELEASE = "1.32"
KEY_SCALE, VALUE_SCALE = 12, 13  # the operator's inputs
# Examples show less than what comes, and what is cut off does more harm than coarser steps: half as
# much again left a 20th of the divergence of memories and a third of that of caches (tiny.en, 15
# clips). Where examples show all, more than this costs as much as it spares.
HEADROOM = 1.5
MIN_CHANNEL = 1e-6  # a channel that is always 0 needs a scale too


class Int8Cache(ir.passes.InPlacePass):
    """See the module's rule. `channels` are the largest values (kv_heads, head_dim) by cache."""

    def __init__(self, channels: Mapping[str, NDArray[np.float32]]) -> None:
        super().__init__()
        self.channels = channels

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the rule everywhere; a graph without a decoder's attention stays as it is."""
        graph = model.graph
        attentions = [
            node
            for node in graph
            if node.op_type == "GroupQueryAttention" and node.outputs[1].name in self.channels
        ]
        caches = {value for node in attentions for value in (*node.inputs[3:5], *node.outputs[1:])}
        for node in attentions:
            give_scales(graph, node, [self.channels[str(value.name)] for value in node.outputs[1:]])
        for value in (*graph.inputs, *graph.outputs):
            if value in caches:
                value.type = ir.TensorType(ir.DataType.INT8)
        return ir.passes.PassResult(model, modified=bool(attentions))


def give_scales(graph: ir.Graph, node: ir.Node, channels: Sequence[NDArray[np.float32]]) -> None:
    """Let a `GroupQueryAttention` read keys and values in 8 bits, of these largest values."""
    node.resize_inputs(VALUE_SCALE + 1)
    for part, index, largest in zip("kv", (KEY_SCALE, VALUE_SCALE), channels, strict=True):
        present = str(node.outputs[index - KEY_SCALE + 1].name)
        node.replace_input_with(index, scale_constant(graph, present, largest))
        kind = f"{part}_quant_type"
        node.attributes[kind] = ir.AttrString(kind, "PER_CHANNEL")
    node.attributes["kv_cache_bit_width"] = ir.AttrInt64("kv_cache_bit_width", 8)


def scale_constant(graph: ir.Graph, present: str, largest: NDArray[np.float32]) -> ir.Value:
    """The scales of what the graph gives out by that name."""
    return constant(graph, f"{present}.scales", ir.Tensor(scales_of(largest)))


def scales_of(largest: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a code of each channel (kv_heads, head_dim) stands for, (1, kv_heads, 1, head_dim)."""
    scales = (np.maximum(largest * HEADROOM, MIN_CHANNEL) / LARGEST_CODE).astype(np.float32)
    return np.ascontiguousarray(scales[None, :, None, :])
