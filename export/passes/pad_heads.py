"""Make the head size of cached attention a multiple of 8, which ONNX Runtime's kernel needs.

1. Queries, keys and values of a `GroupQueryAttention` whose heads are smaller get zeros behind each
   head, and the caches that it reads and writes are as wide as that. Scores stay what they were.
2. What it gives is cut to the size of the heads again; there zeros were weighed alone.

Requires `fuse_cache_attention`'s graph. Caches are inputs and outputs of the graph: whoever makes
them goes by the graph's shapes.
"""

from __future__ import annotations

import onnx_ir as ir

from seq2edge.errors import ExportError
from seq2edge.export.passes.editing import Writer, known_axes

MULTIPLE = 8
PASTS, PRESENTS = (3, 4), (1, 2)  # the operator's inputs and outputs that are caches
HEAD_AXIS = 3


class PadHeads(ir.passes.InPlacePass):
    """See the module's rules."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Do so for every attention to a cache."""
        modified = False
        for node in [node for node in model.graph if node.op_type == "GroupQueryAttention"]:
            size = _head_size(node)
            padding = -size % MULTIPLE
            if padding:
                _pad(model.graph, node, size, padding)
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def _head_size(node: ir.Node) -> int:
    past = node.inputs[PASTS[0]]
    size = known_axes(past)[HEAD_AXIS] if past is not None else None
    if not isinstance(size, int):
        raise ExportError(f"pad_heads: {node.name} has heads of an unknown size")
    return size


def _pad(graph: ir.Graph, node: ir.Node, size: int, padding: int) -> None:
    """Rules 1 and 2."""
    heads = node.attributes["num_heads"].as_int()
    groups = node.attributes["kv_num_heads"].as_int()
    merged = node.inputs[1] is None
    counts = (heads + 2 * groups,) if merged else (heads, groups, groups)
    writer = Writer(graph, node, prefix=f"{node.name}/padded")
    for index, count in enumerate(counts):
        value = node.inputs[index]
        assert value is not None
        rows, new, _ = known_axes(value)
        apart = writer.add(
            "Reshape", [value, writer.integers(0, 0, count, size)], (rows, new, count, size)
        )
        pads = writer.integers(0, 0, 0, 0, 0, 0, 0, padding)
        wide = writer.add("Pad", [apart, pads], (rows, new, count, size + padding))
        width = count * (size + padding)
        whole = writer.add("Reshape", [wide, writer.integers(0, 0, width)], (rows, new, width))
        node.replace_input_with(index, whole)
    for value in (*(node.inputs[i] for i in PASTS), *(node.outputs[i] for i in PRESENTS)):
        assert value is not None
        value.shape = ir.Shape([*known_axes(value)[:HEAD_AXIS], size + padding])
    _cut(graph, node, heads, size, padding)


def _cut(graph: ir.Graph, node: ir.Node, heads: int, size: int, padding: int) -> None:
    """Rule 2: what read the attention reads its heads without the padding."""
    attended = node.outputs[0]
    rows, new, _ = known_axes(attended)
    readers = list(attended.uses())
    follower = readers[0].node
    writer = Writer(graph, follower, prefix=f"{node.name}/cut")
    width = size + padding
    attended.shape = ir.Shape([rows, new, heads * width])
    apart = writer.add(
        "Reshape", [attended, writer.integers(0, 0, heads, width)], (rows, new, heads, width)
    )
    inputs = [apart, writer.integers(0), writer.integers(size), writer.integers(HEAD_AXIS)]
    narrow = writer.add("Slice", inputs, (rows, new, heads, size))
    whole = writer.add(
        "Reshape", [narrow, writer.integers(0, 0, heads * size)], (rows, new, heads * size)
    )
    for use in readers:
        use.node.replace_input_with(use.idx, whole)
