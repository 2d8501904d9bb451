"""Turn transposed weights into weights.

1. `MatMul(x, Transpose(W))` with a W that other nodes read as well (a tied embedding) and a
   two-dimensional x becomes `Gemm(x, W, transB=1)`: the table is stored once.
2. Any other `Transpose(W)` of an initializer becomes an initializer, transposed when it is written
   and not before, so that no second copy of the weights is in memory.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


class FoldTransposes(ir.passes.InPlacePass):
    """See the module's rules. Requires and gives a valid graph of any opset."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply both rules everywhere."""
        graph, changed = model.graph, False
        for node in list(graph):
            weight = node.inputs[0] if node.op_type == "Transpose" else None
            if weight is None or not weight.is_initializer() or weight.const_value is None:
                continue
            if len(weight.uses()) > 1:
                changed |= _share(graph, node, weight)
            else:
                _fold(graph, node, weight)
                changed = True
        return ir.passes.PassResult(model, modified=changed)


def _share(graph: ir.Graph, transpose: ir.Node, weight: ir.Value) -> bool:
    """Rule 1; False where a reader is no product of two axes, and nothing is changed."""
    readers = list(transpose.outputs[0].consumers())
    for matmul in readers:
        x = matmul.inputs[0]
        if matmul.op_type != "MatMul" or x is None or x.shape is None or len(x.shape) != 2:
            return False
    for matmul in readers:
        gemm = ir.node("Gemm", [matmul.inputs[0], weight], {"transB": 1}, name=matmul.name)
        ir.convenience.replace_nodes_and_values(
            graph, matmul, [matmul], [gemm], matmul.outputs, gemm.outputs
        )
    graph.remove(transpose, safe=True)
    return True


def _fold(graph: ir.Graph, transpose: ir.Node, weight: ir.Value) -> None:
    """Rule 2; the transposed copy is made when it is written."""
    tensor = weight.const_value
    assert tensor is not None
    order = transpose.attributes["perm"].as_ints() if "perm" in transpose.attributes else None
    shape = np.empty(tensor.shape.numpy(), dtype=np.bool_).transpose(order).shape

    def transposed() -> ir.TensorProtocol:
        return ir.Tensor(np.ascontiguousarray(tensor.numpy().transpose(order)), name=name)

    name = f"{weight.name}.transposed"
    lazy = ir.LazyTensor(transposed, tensor.dtype, ir.Shape(shape), name=name)
    value = ir.Value(name=name, shape=ir.Shape(shape), type=weight.type, const_value=lazy)
    graph.register_initializer(value)
    transpose.outputs[0].replace_all_uses_with(value)
    graph.remove(transpose, safe=True)
    del graph.initializers[str(weight.name)]
