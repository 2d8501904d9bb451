"""Lower a masked graph to operators that TensorRT's parsers before 10.14 read.

From the graph after `length_to_mask.py` to opset 18 with the same inputs, outputs and symbols:

1. `Attention` becomes MatMul, Add, Softmax and MatMul of four axes; five are never fused. Grouped
   queries are folded into the length axis, (rows, kv_heads, groups * new, head_dim), and the mask
   with them: repeating keys and values instead would write the whole cache `groups` times at every
   step. The query is scaled before the product, which then stays in float16's range.
2. `TensorScatter` becomes `ScatterND` at `cache_length`. A growing cache, past and new tokens
   concatenated, is the other form that old parsers take. It would need another contract (a past of
   no fixed size) and, where rows are of different lengths, a map of the gaps that shorter rows
   leave, which neither the masks nor the runtime have. Either form copies the cache at every step;
   only `TensorScatter` is updated in place.
3. `RMSNormalization`, `RotaryEmbedding` and `Gelu` become elementary functions, the first in
   float32 as the operator itself computes.
4. `Clip` of integers, `Squeeze` without axes and `Split` in equal parts get the form that old
   parsers list.

Requires masks instead of lengths, and every half-precision type in place: run it last. Ensures that
every operator is one that the parser reads (`export/parser_operators.py`); an ExportError names
what is not. Quantized weights need opset 19 for half-precision scales, and 21 for blocks; then the
graph says that.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from seq2edge.errors import ExportError
from seq2edge.export.passes import lower_attention, lower_functions
from seq2edge.export.passes.parser_operators import PARSERS, Parser
from seq2edge.export.passes.writing import Writer

OPSET = 18
IR_VERSIONS = {18: 8, 19: 9, 20: 9, 21: 10}  # what came with each opset
RULES: Mapping[str, Callable[[Writer, ir.Node], None]] = {
    "Attention": lower_attention.lower_attention,
    "TensorScatter": lower_attention.lower_cache_write,
    "RMSNormalization": lower_functions.lower_rms_normalization,
    "RotaryEmbedding": lower_functions.lower_rotary_embedding,
    "Gelu": lower_functions.lower_gelu,
    "Clip": lower_functions.lower_clip,
    "Squeeze": lower_functions.lower_squeeze,
    "Split": lower_functions.lower_split,
}
_KINDS: dict[ir.DataType | None, str] = {
    **dict.fromkeys((ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16), "f"),
    **dict.fromkeys((ir.DataType.INT32, ir.DataType.INT64), "i"),
    ir.DataType.BOOL: "b",
    **dict.fromkeys((ir.DataType.INT8, ir.DataType.INT4), "q"),
}


class LowerToOpset18(ir.passes.InPlacePass):
    """See the module's rules."""

    def __init__(self, parser: Parser = PARSERS["10.3"]) -> None:
        super().__init__()
        self.parser = parser

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply all rules everywhere, and check the result."""
        graph = model.graph
        shared: dict[Hashable, ir.Value] = {}
        for node in list(graph):
            if node.op_type in RULES:
                RULES[node.op_type](Writer(graph, node, shared), node)
        RemoveUnusedNodesPass()(model)
        opset = max((_needs(node) for node in graph), default=OPSET)
        if opset > self.parser.opset:
            raise ExportError(
                f"lower_to_opset18: the graph needs opset {opset}, TensorRT {self.parser.release} "
                f"reads up to {self.parser.opset}; use another recipe"
            )
        model.opset_imports[""] = opset
        model.ir_version = IR_VERSIONS[opset]
        for node in graph:
            node.version = None
            _check(node, self.parser)
        return ir.passes.PassResult(model, modified=True)


def _needs(node: ir.Node) -> int:
    """The opset that knows this form of a node."""
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return OPSET
    if node.attributes.get_int("block_size", 0) or node.inputs[0].dtype == ir.DataType.INT4:  # type: ignore[union-attr]
        return 21
    return OPSET if node.inputs[1].dtype == ir.DataType.FLOAT else 19  # type: ignore[union-attr]


def _check(node: ir.Node, parser: Parser) -> None:
    """Refuse what the parser would refuse on the device, long after."""
    data = node.inputs[1 if node.op_type == "Where" else 0]
    dtype = data.dtype if data is not None else None
    kind = _KINDS.get(dtype, "?")
    if node.domain not in ("", "ai.onnx") or kind not in parser.operators.get(node.op_type, ""):
        raise ExportError(
            f"lower_to_opset18: TensorRT {parser.release} does not read {node.name}, "
            f"{node.op_type} of {dtype.name.lower() if dtype is not None else 'an unknown type'}"
        )
