"""Each part of a model quantized alone."""

from __future__ import annotations

import numpy as np
import pytest
from speaking import sentences

from seq2edge.errors import OptionError
from seq2edge.quantize.onnxruntime_graphs import read_graphs
from seq2edge.quantize.quantizer import Quantizer
from seq2edge.quantize.recipes import RECIPES, Options
from seq2edge.quantize.sensitivity import (
    LayerProbe,
    divergence,
    measure_layers,
    relative_error,
)


@pytest.fixture(scope="module")
def quantizers(speaking):
    """Small bundles with examples, by name."""
    made = {}

    def get(name):
        if name not in made:
            changes = {"num_hidden_layers": 3} if name == "bert" else {}
            source = speaking(name, **changes)
            made[name] = Quantizer(source, calibration=sentences(30), threads=1)
        return made[name]

    return get


@pytest.mark.parametrize(
    ("name", "recipe"),
    [("bart", "int8-dynamic"), ("llama", "int4-weight"), ("bert", "int8-static")],
)
def test_every_part_is_measured(quantizers, name, recipe):
    """Attentions, feed-forwards and tables, each with its weights; the largest error first."""
    progress = []
    found = measure_layers(quantizers(name), RECIPES[recipe], progress=progress.append)
    layers = {part.layer for part in found}
    stack = "encoder" if name == "bert" else "decoder"
    assert {f"{stack}.layers.0.attention", f"{stack}.layers.1.feedforward"} < layers
    assert "embedding" in layers
    if name == "bart":
        assert "decoder.layers.0.cross" in layers
    weights = [weight for part in found for weight in part.weights]
    assert len(weights) == len(set(weights))
    errors = [part.error for part in found]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0
    assert progress == sorted(progress)
    assert progress[-1] == 1.0


def test_the_float_graphs_err_nothing(quantizers):
    """And quantized ones do, whichever graph it is."""
    quantizer = quantizers("bart")
    probe = LayerProbe(quantizer.decode_examples())
    models = read_graphs(quantizer.bundle, "onnxruntime")
    assert probe.error(models) == pytest.approx(0.0, abs=1e-6)
    quantized = quantizer.quantize(RECIPES["int8-dynamic"], "onnxruntime").models
    assert probe.error(quantized) > 1e-6
    assert probe.error(quantized, "encoder") > 1e-6
    assert probe.error(quantized, "decoder") > 1e-6


def test_the_worst_part_is_found(quantizers, monkeypatch):
    """A part whose weights are made much coarser than the others comes first."""
    from seq2edge.quantize.passes import integer_products

    original = integer_products.scale_columns

    def coarse(use, dtype):
        scaled = original(use, dtype)
        if "layers.1.feedforward" in use.name:
            scaled.codes.numpy()[:] = scaled.codes.numpy() // 64 * 64
        return scaled

    monkeypatch.setattr(integer_products, "scale_columns", coarse)
    found = measure_layers(quantizers("llama"), RECIPES["int8-dynamic"])
    assert found[0].layer == "decoder.layers.1.feedforward"
    assert found[0].error > 5 * found[1].error


def test_layers_in_higher_precision_lose_less(quantizers):
    """Keeping the parts that err most in float32 is better than keeping as many others."""
    quantizer, recipe = quantizers("llama"), RECIPES["int8-dynamic"]
    parts = [part for part in measure_layers(quantizer, recipe) if part.error > 0]
    half = len(parts) // 2
    probe, errors = LayerProbe(quantizer.decode_examples()), []
    for chosen in (parts[:half], parts[-half:]):
        names = frozenset(weight for part in chosen for weight in part.weights)
        options = Options(higher_precision=names)
        quantized = quantizer.quantize(recipe, "onnxruntime", options)
        errors.append(probe.error(quantized.models))
        for weight in names:
            assert quantized.formats[f"decoder: {weight}"] == "float32"
    assert errors[0] < errors[1]


def test_divergence_is_of_distributions():
    """A constant added to all logits changes nothing; vectors are compared as they are."""
    logits = np.array([[1.0, 2.0, 3.0]], dtype=np.float32)
    assert divergence(logits, logits + 5) == pytest.approx(0.0, abs=1e-6)
    even = np.zeros((1, 2), dtype=np.float32)
    sure = np.array([[0.0, np.log(3.0)]], dtype=np.float32)
    assert divergence(even, sure) == pytest.approx(np.log(0.5) - (np.log(0.25) + np.log(0.75)) / 2)
    assert relative_error(logits, 2 * logits) == pytest.approx(1.0)


def test_examples_are_needed(exported):
    """There is nothing to measure on."""
    quantizer = Quantizer(exported("gpt2")[1] / "bundle", threads=1)
    with pytest.raises(OptionError, match="calibration: the error of each layer is measured on"):
        measure_layers(quantizer, RECIPES["int8-dynamic"])
