"""Split merged queries, keys and values along their heads.

`Split` of the columns, then `Reshape` and `Transpose` of each part to (batch, heads, length,
head_dim), becomes one `Reshape`, one `Transpose` and a `Split` of the heads. From the first form
TensorRT takes the weight apart again, so that a quantized one is written out as floats at every
call; seen in TensorRT-RTX 1.7's reports (tests/export/tensorrt/test_quantized_engines.py).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from seq2edge.export.passes.editing import constant, single_consumer

HEADS_FIRST = (0, 2, 1, 3)  # (batch, length, heads, head_dim) -> (batch, heads, length, head_dim)


class SplitHeads(ir.passes.InPlacePass):
    """See above; shapes are known. `moved` names what new values hold the numbers of."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: dict[str, str] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Do so wherever all parts are heads of one size."""
        for node in list(model.graph):
            parts = _parts(node) if node.op_type == "Split" else []
            sizes = [_heads(part) for part in parts]
            if parts and None not in sizes and len({size[1] for size in sizes if size}) == 1:
                self._split(model.graph, node, parts, [size for size in sizes if size])
        return ir.passes.PassResult(model, modified=bool(self.moved))

    def _split(
        self, graph: ir.Graph, old: ir.Node, parts: list[ir.Value], sizes: list[tuple[int, int]]
    ) -> None:
        """One reshape, one transpose and a split of heads in the place of a split's readers."""
        whole, heads = old.inputs[0], [size[0] for size in sizes]
        assert whole is not None
        assert whole.shape is not None
        batch, length, head_dim = whole.shape[0], whole.shape[1], sizes[0][1]
        shape = _integers(graph, (0, 0, sum(heads), head_dim))
        reshape = ir.node("Reshape", [whole, shape], name=f"{old.name}/reshape")
        transpose = ir.node(
            "Transpose", reshape.outputs, {"perm": HEADS_FIRST}, name=f"{old.name}/transpose"
        )
        split = ir.node(
            "Split",
            [transpose.outputs[0], _integers(graph, tuple(heads))],
            {"axis": 1},
            num_outputs=len(heads),
            name=f"{old.name}/heads",
        )
        axes = {
            reshape: (batch, length, sum(heads), head_dim),
            transpose: (batch, sum(heads), length, head_dim),
        }
        for node, made in axes.items():
            value = node.outputs[0]
            value.name, value.type, value.shape = f"{node.name}.value", whole.type, ir.Shape(made)
            self.moved[value.name] = str(whole.name)
        _take_place(graph, old, parts, [reshape, transpose, split])


def _take_place(graph: ir.Graph, old: ir.Node, parts: list[ir.Value], new: list[ir.Node]) -> None:
    """The new split's results are the parts from here on, by name too."""
    turned = [part.producer() for part in parts]
    shaped = [next(iter(value.consumers())) for value in old.outputs]
    gone = [old, *shaped, *[node for node in turned if node is not None]]
    ir.convenience.replace_nodes_and_values(graph, old, gone, new, parts, new[-1].outputs)


def _parts(split: ir.Node) -> list[ir.Value]:
    """Every result of a split of the last of three axes, with its heads first; else none."""
    whole = split.inputs[0]
    axis = split.attributes.get_int("axis", 0)
    if whole is None or whole.shape is None or len(whole.shape) != 3 or axis not in (2, -1):
        return []
    parts = []
    for value in split.outputs:
        reshape = single_consumer(value, "Reshape")
        transpose = reshape and single_consumer(reshape.outputs[0], "Transpose")
        if transpose is None or tuple(transpose.attributes["perm"].as_ints()) != HEADS_FIRST:
            return []
        parts.append(transpose.outputs[0])
    return parts


def _heads(part: ir.Value) -> tuple[int, int] | None:
    """How many heads of which size, where both are known."""
    if part.shape is None or len(part.shape) != 4:
        return None
    heads, head_dim = part.shape[1], part.shape[3]
    return (heads, head_dim) if isinstance(heads, int) and isinstance(head_dim, int) else None


def _integers(graph: ir.Graph, values: tuple[int, ...]) -> ir.Value:
    name = f"heads.{'_'.join(map(str, values))}"
    return constant(graph, name, ir.tensor(np.array(values, dtype=np.int64), name=name))
