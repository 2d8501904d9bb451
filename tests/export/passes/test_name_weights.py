"""Weights are named after the model's parameters."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from seq2edge.quantize.passes.weight_uses import find_weight_uses


@pytest.mark.parametrize("name", ["bart", "t5", "llama", "whisper", "bert"])
def test_every_product_names_its_module(exported, name):
    """In all graphs of a bundle, also where the exporter transposed the weight."""
    bundle = exported(name)[2].bundle
    for graph in bundle.manifest.graphs:
        model = ir.load(bundle.file(graph.file))
        names = [use.name for use in find_weight_uses(model.graph, {bundle.manifest.dims.vocab})]
        assert names
        for weight in names:
            assert weight.startswith("model."), weight
            assert weight.endswith(".weight"), weight


def test_cross_attentions_keys_have_the_decoders_name(exported):
    """Though the encoder's graph computes them."""
    bundle = exported("bart")[2].bundle
    model = ir.load(bundle.file(bundle.graph("encoder", "canonical").file))
    assert "model.decoder.layers.1.cross.key_value.weight" in model.graph.initializers
