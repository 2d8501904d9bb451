"""Outliers move from inputs to weights, and the products stay what they were."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from small_products import VOCAB, WIDTH, model, random, run

from seq2edge.quantize.passes.integer_products import IntegerProducts
from seq2edge.quantize.passes.sites import find_sites
from seq2edge.quantize.passes.smooth import Smooth
from seq2edge.quantize.ranges import find_factors


def outliers():
    """Inputs with one channel a hundred times as large, and a weight that hardly reads it."""
    x, weight = random(50, WIDTH), random(WIDTH, 30, seed=1)
    x[:, 7] *= 100
    weight[7] *= 0.01
    return x, weight


def computed(weight):
    """The small model whose product reads what a node computed, h."""
    made = model(weight, random(VOCAB, WIDTH))
    product = next(node for node in made.graph if node.op_type == "MatMul")
    node = ir.node("Identity", [product.inputs[0]])
    node.outputs[0].name, node.outputs[0].type = "h", ir.TensorType(ir.DataType.FLOAT)
    made.graph.insert_before(product, node)
    product.replace_input_with(0, node.outputs[0])
    return made


def factors_of(float_model, x):
    """The factors for these inputs."""
    sites = {"decoder": find_sites(float_model.graph, {VOCAB})}
    found = find_factors({("decoder", "h"): np.abs(x).max(axis=0)}, sites, 0.5)
    return found["decoder", "h"]


def test_products_stay_what_they_were():
    """The factors cancel, for the products alone: heads and embeddings are as before."""
    x, weight = outliers()
    float_model = computed(weight)
    wanted = run(float_model, x)
    factors = factors_of(float_model, x)
    assert factors[7] > 20 * np.median(factors)
    assert Smooth({"h": factors}, {VOCAB})(float_model).modified
    found = run(float_model, x)
    for name in ("y", "logits", "rows", "places"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-4)


def test_integer_products_err_less():
    """What one large channel had cost all others."""
    x, weight = outliers()
    wanted = run(computed(weight), x)["y"]
    errors = []
    for smoothed in (False, True):
        made = computed(weight)
        if smoothed:
            Smooth({"h": factors_of(made, x)}, {VOCAB})(made)
        IntegerProducts({VOCAB}, None)(made)
        errors.append(np.square(run(made, x)["y"] - wanted).mean())
    assert errors[1] < 0.1 * errors[0]


def test_a_weight_of_several_products_is_left_alone():
    """It cannot have the factors of both inputs."""
    x, weight = outliers()
    float_model = computed(weight)
    factors = factors_of(float_model, x)
    product = next(node for node in float_model.graph if node.op_type == "MatMul")
    moved = ir.node("Neg", [product.inputs[0]])
    moved.outputs[0].name = "moved"
    float_model.graph.extend([moved, ir.node("MatMul", [moved.outputs[0], product.inputs[1]])])
    assert not Smooth({"h": factors}, {VOCAB})(float_model).modified


def test_inputs_of_the_graph_are_left_alone():
    """They have the contract's names."""
    x, weight = outliers()
    float_model = model(weight, random(VOCAB, WIDTH))
    factors = factors_of(computed(weight), x)
    assert not Smooth({"x": factors}, {VOCAB})(float_model).modified
