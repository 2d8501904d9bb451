"""Give an attention that does not scale its scores one that does, with smaller queries.

`Attention` with a `scale` of 1 (T5's) reads its queries times 1/4 and gets a `scale` of 4: the same
scores, exactly, in every float type, but for queries that are no normal numbers after it. TensorRT
leaves a factor of 1 out; then it makes keys that a `TensorScatter` just wrote part of a kernel that
reads them from a copy, and copies the whole cache at every call; seen in TensorRT-RTX 1.7's reports
(tests/export/tensorrt/test_engine.py). With any other factor caches are updated where they are.

Queries are made smaller, not larger, since nothing is known of their size in float16; keys, which
the operator may multiply by the scale's root, are known to have room for it (`tensorrt_graphs.py`).

Attention to what is no cache is left alone.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from seq2edge.export.passes.editing import constant

FACTOR = (
    0.25  # a power of two is exact; of 4 the square root is too, which the operator multiplies by
)
QUERY, KEY = 0, 1


class ScaleQueries(ir.passes.InPlacePass):
    """See above. `moved` names what new values hold the numbers of."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: dict[str, str] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Do so for every attention to a cache that is written in the graph."""
        for node in list(model.graph):
            if node.op_type == "Attention" and _is_unscaled(node) and _reads_cache(node):
                self._scale(model.graph, node)
        return ir.passes.PassResult(model, modified=bool(self.moved))

    def _scale(self, graph: ir.Graph, attention: ir.Node) -> None:
        """Multiply an attention's queries by FACTOR and its scores by the inverse."""
        query = attention.inputs[QUERY]
        assert query is not None
        assert query.dtype is not None
        name = f"queries.{FACTOR}.{query.dtype.name.lower()}"
        array = np.array(FACTOR, dtype=query.dtype.numpy())
        factor = constant(graph, name, ir.tensor(array, query.dtype, name=name))
        product = ir.node("Mul", [query, factor], name=f"{attention.name}/scaled")
        made = product.outputs[0]
        made.name, made.shape, made.type = f"{product.name}.value", query.shape, query.type
        graph.insert_before(attention, product)
        attention.replace_input_with(QUERY, made)
        attention.attributes["scale"] = ir.AttrFloat32("scale", 1 / FACTOR)
        self.moved[str(made.name)] = str(query.name)


def _is_unscaled(attention: ir.Node) -> bool:
    return "scale" in attention.attributes and attention.attributes["scale"].as_float() == 1.0


def _reads_cache(attention: ir.Node) -> bool:
    key = attention.inputs[KEY]
    writer = key.producer() if key is not None else None
    return writer is not None and writer.op_type == "TensorScatter"
