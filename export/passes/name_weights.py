"""Name weights after the parameters that they are.

1. The weight of a product that the exporter transposed, and so named anew, gets the name of the
   module that multiplies by it: `model.decoder.layers.0.attention.qkv.weight`.

Requires the scopes that `torch.onnx.export` leaves in the nodes' metadata. Whoever reads a manifest
or a report then knows which part of the model is meant.

Why metadata: the exporter writes `x @ weight.T` and folds the transpose into a constant of its own,
`val_17`, so that the parameter's name is gone from the graph. What remains is the list of modules
around the product, which the exporter keeps as the text of a Python list: hence `literal_eval`.
"""

from __future__ import annotations

import ast

import onnx_ir as ir

SCOPES = "pkg.torch.onnx.name_scopes"  # the modules around a node, the outermost first


class NameWeights(ir.passes.InPlacePass):
    """See the module's rule."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the rule everywhere; a name that is taken already is left to its owner."""
        graph, changed = model.graph, False
        for node in graph:
            weight = node.inputs[1] if node.op_type in ("MatMul", "Gemm") else None
            scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
            if weight is None or not weight.is_initializer() or len(scopes) < 2:
                continue
            name = f"{scopes[-2]}.weight"
            known = "." in str(weight.name) and not str(weight.name).endswith(".transposed")
            if known or name in graph.initializers:
                continue
            weight.name = name
            changed = True
        return ir.passes.PassResult(model, modified=changed)
