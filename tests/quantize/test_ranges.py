"""How large products' inputs get: what the examples show, whatever the method."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from speaking import sentences

from seq2edge.bundle import Bundle
from seq2edge.quantize.calibration import Calibration
from seq2edge.quantize.onnxruntime_graphs import read_graphs
from seq2edge.quantize.passes.weight_uses import find_weight_uses, product_inputs
from seq2edge.quantize.ranges import (
    collect_input_stats,
    find_channels,
    find_factors,
    find_ranges,
)
from seq2edge.quantize.recipes import RANGE_METHODS, RECIPES, Options


@pytest.fixture(scope="module")
def calibration(speaking):
    """A tiny encoder-decoder with what it decoded."""
    bundle = Bundle.open(speaking("bart"))
    return Calibration(bundle, sentences(30), threads=1)


@pytest.fixture(scope="module")
def uses(calibration):
    """Its products by graph."""
    models = read_graphs(calibration.bundle, "onnxruntime")
    vocab = {calibration.bundle.manifest.dims.vocab}
    return {role: find_weight_uses(model.graph, vocab) for role, model in models.items()}


@pytest.fixture(scope="module")
def values(calibration, uses):
    """All values of every input, as numpy sees them."""
    tensors = defaultdict(list)
    names = {role: list(product_inputs(of_graph)) for role, of_graph in uses.items()}
    calibration.observe(names, lambda role, name, v: tensors[role, name].append(v.copy()))
    return {
        key: np.concatenate([v.reshape(-1, v.shape[-1]) for v in values])
        for key, values in tensors.items()
    }


@pytest.mark.parametrize("method", RANGE_METHODS)
def test_every_method_finds_a_range_within_the_values(calibration, uses, values, method, capsys):
    """The largest, the 99.99th percentile, or less; nothing is printed."""
    channels = find_channels(calibration, uses, "onnxruntime")
    found = find_ranges(calibration, channels, {}, method, "onnxruntime")
    assert found.keys() == values.keys()
    for key, array in values.items():
        sizes = np.abs(array)
        np.testing.assert_allclose(channels[key], sizes.max(axis=0), rtol=1e-6)
        if method == "min-max":
            assert found[key] == pytest.approx(float(sizes.max()))
        elif method == "percentile":
            # A bin's width apart.
            assert found[key] >= np.quantile(sizes, 0.9999) * 0.99
            assert found[key] <= sizes.max() * 1.001
        else:
            assert 0 < found[key] <= sizes.max() * 1.01
    assert capsys.readouterr().out == ""


def test_an_outlier_moves_the_largest_value_alone(calibration, uses, values):
    """One value in ten thousand is not what the percentile is about."""
    key = next(iter(values))
    array = np.tile(values[key], (40, 1))
    array[0, 0] = 1000.0

    class Once:
        """Stands in for a calibration with these values."""

        def observe(self, names, on_tensor, progress, **_):
            on_tensor(*key, array)

    channels = {key: np.abs(array).max(axis=0)}
    ranges = {m: find_ranges(Once(), channels, {}, m, "onnxruntime") for m in RANGE_METHODS}
    assert ranges["min-max"][key] == 1000.0
    assert ranges["percentile"][key] < 10.0


def test_factors_balance_inputs_and_weights(calibration, uses):
    """With half of the outliers moved, both sides' channels are equally large, behind norms."""
    channels = find_channels(calibration, uses, "onnxruntime")
    factors = find_factors(channels, uses, 0.5)
    assert set() < factors.keys() < channels.keys()
    for role, of_graph in uses.items():
        for name, readers in product_inputs(of_graph).items():
            normed = "Normalization" in readers[0].node.inputs[0].producer().op_type
            assert ((role, name) in factors) == normed
            if not normed:
                continue
            rows = np.max([np.abs(use.weight()).max(axis=1) for use in readers], axis=0)
            inputs = channels[role, name] / factors[role, name]
            np.testing.assert_allclose(inputs, rows * factors[role, name], rtol=1e-3)


def test_nothing_is_read_where_nothing_is_needed(uses):
    """Recipes without fixed ranges or smoothing need no examples."""
    stats = collect_input_stats(None, uses, RECIPES["int8-dynamic"], Options(), "onnxruntime")
    assert (stats.factors, stats.ranges) == ({}, {})
