"""Outliers move from inputs to weights, and the products stay what they were."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from small_products import VOCAB, WIDTH, constant, model, random, run

from seq2edge.quantize.passes.integer_products import IntegerProducts
from seq2edge.quantize.passes.smooth import Smooth
from seq2edge.quantize.passes.weight_uses import find_weight_uses
from seq2edge.quantize.ranges import find_factors


def outliers():
    """A gain that makes one channel a hundred times as large, and a weight that hardly reads it."""
    gain, weight = np.ones(WIDTH, dtype=np.float32), random(WIDTH, 30, seed=1)
    gain[7] = 100
    weight[7] *= 0.01
    return random(50, WIDTH), gain, weight


def normed(weight, gain, operator="LayerNormalization"):
    """The small model whose product reads what a norm computed, h."""
    made = model(weight, random(VOCAB, WIDTH))
    product = next(node for node in made.graph if node.op_type == "MatMul")
    inputs = [product.inputs[0]]
    if operator == "LayerNormalization":
        scale = constant("gain", gain)
        made.graph.register_initializer(scale)
        inputs.append(scale)
    node = ir.node(operator, inputs)
    node.outputs[0].name, node.outputs[0].type = "h", ir.TensorType(ir.DataType.FLOAT)
    made.graph.insert_before(product, node)
    product.replace_input_with(0, node.outputs[0])
    return made


def factors_of(float_model, x, gain):
    """The factors for these inputs, by their names."""
    uses = {"decoder": find_weight_uses(float_model.graph, {VOCAB})}
    h = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True) * gain
    found = find_factors({("decoder", "h"): np.abs(h).max(axis=0)}, uses, 0.5)
    return {name: factors for (_, name), factors in found.items()}


def test_products_stay_what_they_were():
    """The factors cancel, for the products alone: heads and embeddings are as before."""
    x, gain, weight = outliers()
    float_model = normed(weight, gain)
    wanted = run(float_model, x)
    factors = factors_of(float_model, x, gain)
    assert factors["h"][7] > 20 * np.median(factors["h"])
    assert Smooth(factors, {VOCAB})(float_model).modified
    found = run(float_model, x)
    for name in ("y", "logits", "rows", "places"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-4)


def test_integer_products_err_less():
    """What one large channel had cost all others."""
    x, gain, weight = outliers()
    wanted = run(normed(weight, gain), x)["y"]
    errors = []
    for smoothed in (False, True):
        made = normed(weight, gain)
        if smoothed:
            Smooth(factors_of(made, x, gain), {VOCAB})(made)
        IntegerProducts({VOCAB}, None)(made)
        errors.append(np.square(run(made, x)["y"] - wanted).mean())
    assert errors[1] < 0.1 * errors[0]


def test_what_no_norm_gives_has_no_factors():
    """Large values of activations change their channels from input to input."""
    x, gain, weight = outliers()
    assert factors_of(normed(weight, gain, "Relu"), x, gain) == {}


def test_a_weight_of_several_products_is_left_alone():
    """It cannot have the factors of both inputs."""
    x, gain, weight = outliers()
    float_model = normed(weight, gain)
    factors = factors_of(float_model, x, gain)
    product = next(node for node in float_model.graph if node.op_type == "MatMul")
    moved = ir.node("Neg", [product.inputs[0]])
    moved.outputs[0].name = "moved"
    float_model.graph.extend([moved, ir.node("MatMul", [moved.outputs[0], product.inputs[1]])])
    assert not Smooth(factors, {VOCAB})(float_model).modified


def test_inputs_of_the_graph_are_left_alone():
    """They have the contract's names."""
    x, gain, weight = outliers()
    factors = factors_of(normed(weight, gain), x, gain)
    float_model = model(weight, random(VOCAB, WIDTH))
    assert not Smooth({"x": factors["h"]}, {VOCAB})(float_model).modified
