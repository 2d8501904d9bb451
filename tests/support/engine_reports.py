"""What tests ask of a builder's report beside what the sidecar keeps of it."""

from __future__ import annotations

from seq2edge.export.tensorrt.report import LOW_BIT, EngineReport, is_matrix


def products_with(report: EngineReport, *weights: str) -> int:
    """Products of float activations with weights of these types."""
    return sum(
        count
        for types, count in report.products.items()
        if types.endswith(weights) and not types.startswith("Int8")
    )


def dequantized_weights(report: EngineReport) -> int:
    """Low-bit weights that a kernel of their own writes out as floats at every call."""
    return sum(
        any(t.dtype in LOW_BIT and is_matrix(t) for t in layer.constants) and not layer.inputs
        for layer in report.layers
    )
