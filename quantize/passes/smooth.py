"""Move outliers from the inputs of products to their weights (SmoothQuant).

1. An input x with factors s (K,) becomes `Mul(x, 1 / s)` for the products that read a weight.
2. Each of those weights (K, N) gets its rows multiplied by s: the products stay what they were.

A weight that several products read cannot have several factors: its inputs are left as they are,
and so are inputs of the graph itself. Factors are those of `quantize/ranges.py`; tables have none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge.export.passes.editing import constant
from seq2edge.quantize.passes.weight_uses import WeightUse, find_weight_uses, product_inputs


class Smooth(ir.passes.InPlacePass):
    """See the module's rules. `factors` are by the inputs' names, `tables` vocabularies' sizes."""

    def __init__(self, factors: Mapping[str, NDArray[np.float32]], tables: set[int]) -> None:
        super().__init__()
        self.factors = factors
        self.tables = tables

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply both rules to every input that has factors."""
        graph = model.graph
        inputs = product_inputs(find_weight_uses(graph, self.tables))
        readers = Counter(id(use.value) for uses in inputs.values() for use in uses)
        changed = False
        for name, uses in inputs.items():
            value = uses[0].node.inputs[0]
            alone = all(readers[id(use.value)] == 1 for use in uses)
            if name in self.factors and alone and value is not None and value.producer():
                _smooth(graph, name, uses, self.factors[name])
                changed = True
        return ir.passes.PassResult(model, modified=changed)


def _smooth(
    graph: ir.Graph, name: str, uses: list[WeightUse], factors: NDArray[np.float32]
) -> None:
    value = uses[0].node.inputs[0]
    assert value is not None
    inverse = constant(graph, f"{name}.smoothing", ir.Tensor(np.float32(1.0) / factors))
    node = ir.node("Mul", [value, inverse], name=f"{name}.smooth")
    smoothed = node.outputs[0]
    # The name stays with what the products read: ranges are known by it.
    value.name, smoothed.name = f"{name}.rough", name
    smoothed.shape, smoothed.type = value.shape, value.type
    producer = value.producer()
    assert producer is not None
    graph.insert_after(producer, node)
    for use in uses:
        use.node.replace_input_with(0, smoothed)
        use.value.const_value = _scaled(use, factors)


def _scaled(use: WeightUse, factors: NDArray[np.float32]) -> ir.TensorProtocol:
    """The weight as it is stored, computed when it is read."""
    tensor, transposed = use.tensor, use.transposed

    def rows() -> ir.TensorProtocol:
        stored = tensor.numpy()
        return ir.Tensor(stored * (factors if transposed else factors[:, None]), name=tensor.name)

    return ir.LazyTensor(rows, tensor.dtype, ir.Shape(tensor.shape.numpy()), name=tensor.name)
