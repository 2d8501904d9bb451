"""Products of bytes with bytes: close to the float ones, and never saturating."""

from __future__ import annotations

import numpy as np
import pytest
from small_products import VOCAB, WIDTH, biased, model, random, run

from seq2edge.quantize.passes.integer_products import IntegerProducts
from seq2edge.runtime.backends.onnxruntime import SHIFTED_WEIGHTS, sums_may_saturate

RANGES = {"x": 4.0}


def changed(float_model, ranges=None, higher_precision=frozenset()):
    """The model after the pass, and the pass."""
    change = IntegerProducts({VOCAB}, ranges, higher_precision)
    change(float_model)
    return float_model, change


@pytest.mark.parametrize("ranges", [None, RANGES], ids=["dynamic", "static"])
def test_products_are_close_to_the_float_ones(ranges):
    """Weights have a scale a column; embeddings and heads are left for the other pass."""
    x, weight, table = random(5, WIDTH), random(WIDTH, 30, seed=1), random(VOCAB, WIDTH, seed=2)
    weight[:, 3] *= 100  # a large column does not spoil its neighbours
    wanted = run(model(weight, table), x)
    made, change = changed(model(weight, table), ranges)
    found = run(made, x)
    error = np.abs(found["y"] - wanted["y"]).max(axis=0)
    assert (error > 0).any()
    assert (error < 0.03 * np.abs(wanted["y"]).max(axis=0)).all()
    for name in ("logits", "rows", "places"):
        np.testing.assert_array_equal(found[name], wanted[name])
    kind = "dynamic" if ranges is None else "static"
    assert change.changed == {"W": f"int8, a scale a column, {kind} inputs"}


@pytest.mark.parametrize("ranges", [None, {"x": 3.0}], ids=["dynamic", "static"])
def test_sums_of_extremes_do_not_saturate(ranges):
    """Everything at its largest, in a session as the backend opens it.

    Kernels without VNNI add pairs of products in 16 bits, where these would be far off.
    """
    weight = np.ones((WIDTH, 30), dtype=np.float32)
    weight[:, ::2] = -1
    x = np.full((2, WIDTH), 3.0, dtype=np.float32)
    x[1] *= -1
    made, _ = changed(model(weight, random(VOCAB, WIDTH)), ranges)
    np.testing.assert_allclose(run(made, x)["y"], x @ weight, rtol=0.01)
    assert made.graph.initializers["W.codes"].const_value.numpy().dtype == np.int8
    assert not made.graph.initializers["W.zeros"].const_value.numpy().any()


@pytest.mark.skipif(sums_may_saturate(), reason="this processor's sums saturate")
@pytest.mark.parametrize("ranges", [None, RANGES], ids=["dynamic", "static"])
def test_shifted_weights_give_the_same_numbers(ranges):
    """ONNX Runtime's own form for processors without VNNI."""
    made, _ = changed(model(random(WIDTH, 30), random(VOCAB, WIDTH)), ranges)
    x = random(5, WIDTH, seed=7)
    plain, shifted = (run(made, x, {SHIFTED_WEIGHTS: way})["y"] for way in "01")
    np.testing.assert_allclose(plain, shifted, rtol=1e-5, atol=1e-5)


def test_values_beyond_the_range_are_clipped():
    """A static range is what the examples showed."""
    weight = np.eye(WIDTH, 30, dtype=np.float32)
    x = np.full((1, WIDTH), 10.0, dtype=np.float32)
    made, _ = changed(model(weight, random(VOCAB, WIDTH)), RANGES)
    np.testing.assert_allclose(run(made, x)["y"], 4.0, rtol=0.01)


@pytest.mark.parametrize("ranges", [None, RANGES], ids=["dynamic", "static"])
def test_the_graph_computes_in_integers(ranges):
    """In one operator a product, which the provider runs as it stands."""
    made, _ = changed(model(random(WIDTH, 30), random(VOCAB, WIDTH)), ranges)
    operators = sorted(
        node.op_type for node in made.graph if node.op_type not in ("Gather", "Gemm")
    )
    static = ["MatMulIntegerToFloat", "QuantizeLinear"]
    assert operators == (["DynamicQuantizeMatMul"] if ranges is None else static)
    assert "W" not in made.graph.initializers


def test_weights_in_higher_precision_and_inputs_without_range_stay():
    """Named ones, and products whose input was 0 on every example."""
    made, change = changed(model(random(WIDTH, 30), random(VOCAB, WIDTH)), None, frozenset({"W"}))
    assert change.changed == {}
    assert "MatMul" in {node.op_type for node in made.graph}
    _, change = changed(model(random(WIDTH, 30), random(VOCAB, WIDTH)), {"x": 0.0})
    assert change.changed == {}


def test_a_product_that_adds_keeps_its_addend():
    """A Gemm's bias is the new operator's."""
    x, weight, table = random(5, WIDTH), random(WIDTH, 30, seed=1), random(VOCAB, WIDTH, seed=2)
    wanted = run(biased(weight, table), x)["logits"]
    change = IntegerProducts(set(), None)  # no vocabulary: the head is a layer like others
    made = biased(weight, table)
    change(made)
    assert {"Gemm", "Add"}.isdisjoint(node.op_type for node in made.graph)
    assert np.abs(run(made, x)["logits"] - wanted).max() < 0.5
