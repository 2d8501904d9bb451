"""Take the output `alignment` out of a decoder, with all that is computed for it alone.

Engines are built without it: their backend reads none. A graph without the output is left as it is.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from seq2edge.bundle.engine_info import ALIGNMENT


class DropAlignment(ir.passes.InPlacePass):
    """See above."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Drop it."""
        outputs = model.graph.outputs
        dropped = [value for value in outputs if value.name == ALIGNMENT]
        for value in dropped:
            outputs.remove(value)
        if dropped:
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=bool(dropped))
