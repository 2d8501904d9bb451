"""Give symbolic axes a size: TensorRT's caches have a fixed capacity."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir


class FixAxes(ir.passes.InPlacePass):
    """Every axis of one of these names, anywhere in the graph, gets the size given."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.sizes = dict(sizes)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Inputs, outputs and what lies between."""
        values = [*model.graph.inputs, *(v for node in model.graph for v in node.outputs)]
        for value in values:
            if value.shape is not None:
                axes = [a if isinstance(a, int) else str(a.value) for a in value.shape]
                value.shape = ir.Shape([self.sizes.get(a, a) for a in axes])  # type: ignore[call-overload]
        return ir.passes.PassResult(model, modified=True)
