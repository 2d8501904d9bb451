"""Blocked integer weights: what is replaced, what stays, and that the arithmetic is right."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import onnx_ir as ir
import pytest
from small_products import DIMS, VOCAB, WIDTH, biased, model, random, run

from seq2edge.quantize.passes.block_weights import (
    BlockFormat,
    BlockWeights,
    Codes,
    QuantizedWeights,
)
from seq2edge.quantize.passes.weight_uses import storage_key
from seq2edge.quantize.recipes import RECIPES, Recipe

INT8, INT4 = RECIPES["int8-weight"], RECIPES["int4-weight"]
FOR_ONNXRUNTIME = [recipe for recipe in RECIPES.values() if "onnxruntime" in recipe.targets]


def quantized(float_model, recipe=INT8, dims=DIMS):
    """The model after the pass, and the pass."""
    change = BlockWeights(QuantizedWeights(dims, recipe.formats))
    change(float_model)
    return float_model, change


@pytest.mark.parametrize("recipe", FOR_ONNXRUNTIME, ids=lambda recipe: recipe.name)
def test_products_and_tables_are_close_to_the_float_ones(recipe):
    """Within what so many bits allow, for products, tied heads and embeddings; places are exact."""
    x, weight, table = random(5, WIDTH), random(WIDTH, 30, seed=1), random(VOCAB, WIDTH, seed=2)
    wanted = run(model(weight, table), x)
    found = run(quantized(model(weight, table), recipe)[0], x)
    spread = {"y": 1 / 2**recipe.layers.bits, "logits": 1 / 2**8, "rows": 1 / 2**8}
    for name, step in spread.items():
        error = np.abs(found[name] - wanted[name]).max()
        size = np.abs(wanted[name]).max()
        assert 0 < error < 4 * step * size, name
    np.testing.assert_array_equal(found["places"], wanted["places"])


def test_what_became_of_every_weight_is_told():
    """The embedding and the head have more bits than the layers; position tables are none."""
    _, change = quantized(model(random(WIDTH, 30), random(VOCAB, WIDTH)), INT4)
    assert change.changed == {"W": "int4, blocks of 32", "T": "int8, blocks of 64"}


def test_no_float_weight_is_left_behind():
    """The graph holds the integers alone, in the operators that compute with them."""
    changed, _ = quantized(model(random(WIDTH, 30), random(VOCAB, WIDTH)))
    operators = sorted(node.op_type for node in changed.graph)
    assert operators == ["Gather", "GatherBlockQuantized", "MatMulNBits", "MatMulNBits"]
    levels = {n.attributes["accuracy_level"].as_int() for n in changed.graph if "K" in n.attributes}
    assert levels == {4}
    assert not {"W", "T"} & set(changed.graph.initializers)


def test_a_tied_table_is_one_array():
    """The head's blocks and the embedding's rows are the same memory, to be written once."""
    changed, _ = quantized(model(random(WIDTH, 30), random(VOCAB, WIDTH)))
    head, rows = (changed.graph.initializers[n].const_value.numpy() for n in ("T.blocks", "T.rows"))
    assert head.__array_interface__["data"] == rows.__array_interface__["data"]


@pytest.mark.parametrize(("inner", "block"), [(96, 32), (64, 64), (48, 16), (256, 128)])
def test_blocks_divide_the_inner_axis(inner, block):
    """The largest power of two that does, up to the recipe's."""
    weight, table = random(inner, 30, seed=1), random(VOCAB, inner, seed=2)
    x = random(3, inner)
    wanted = run(model(weight, table, inner=inner), x)
    changed, change = quantized(model(weight, table, inner=inner))
    assert change.changed["W"] == f"int8, blocks of {block}"
    error = np.abs(run(changed, x)["y"] - wanted["y"]).max()
    assert error < 0.02 * np.abs(wanted["y"]).max()


def test_a_weight_that_no_block_divides_stays_float():
    """And is told, so that nobody believes it is small."""
    weight, table = random(40, 30), random(VOCAB, 40)
    changed, change = quantized(model(weight, table, inner=40))
    assert change.changed == {"W": "float32", "T": "float32"}
    assert sorted(node.op_type for node in changed.graph) == ["Gather", "Gather", "Gemm", "MatMul"]


@pytest.mark.parametrize("recipe", FOR_ONNXRUNTIME, ids=lambda recipe: recipe.name)
def test_sums_of_extremes_do_not_saturate(recipe):
    """Everything at its largest: 16-bit sums of 8-bit products would be far off here.

    Older x86 kernels add pairs of products in 16 bits; the result must be right on this processor.
    """
    weight = np.ones((WIDTH, 30), dtype=np.float32)
    weight[:, ::2] = -1
    x = np.full((2, WIDTH), 3.0, dtype=np.float32)
    x[1] *= -1
    found = run(quantized(model(weight, random(VOCAB, WIDTH)), recipe)[0], x)
    np.testing.assert_allclose(
        found["y"], x @ weight, rtol=0.02 if recipe.layers.bits == 8 else 0.15
    )


@pytest.mark.parametrize(
    ("name", "attribute"),
    [("alpha", ir.AttrFloat32("alpha", 0.5)), ("transA", ir.AttrInt64("transA", 1))],
)
def test_other_products_are_left_alone(name, attribute):
    """A Gemm with a factor is not what the operator computes; its weight is told to be float."""
    float_model = model(random(WIDTH, 30), random(VOCAB, WIDTH))
    gemm = next(node for node in float_model.graph if node.op_type == "Gemm")
    gemm.attributes[name] = attribute
    changed, change = quantized(float_model)
    assert "Gemm" in {node.op_type for node in changed.graph}
    assert change.changed["T"] == "float32"


def test_an_addend_is_kept():
    """The bias of an LM head, for instance."""
    x, weight, table = random(5, WIDTH), random(WIDTH, 30, seed=1), random(VOCAB, WIDTH, seed=2)
    wanted = run(biased(weight, table), x)["logits"]
    changed, change = quantized(biased(weight, table))
    assert "Gemm" not in {node.op_type for node in changed.graph}
    assert change.changed["T"] == "int8, blocks of 64"
    assert np.abs(run(changed, x)["logits"] - wanted).max() < 0.5


def test_the_callers_logging_is_left_alone():
    """onnxruntime's module would print every remark of every library from then on."""
    before = (list(logging.getLogger().handlers), logging.getLogger().level)
    quantized(model(random(WIDTH, 30), random(VOCAB, WIDTH)))
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == before


def test_recipes_are_made_of_sizes_that_kernels_have():
    """Bits of 4 or 8, blocks of powers of two; none at all where weights stay float."""
    assert all(isinstance(recipe, Recipe) for recipe in RECIPES.values())
    for recipe in RECIPES.values():
        formats = (recipe.layers, recipe.attention, recipe.table)
        if recipe.name in ("fp16", "bf16"):
            assert formats == (None, None, None)
            continue
        for block_format in formats:
            assert block_format.bits in {4, 8}
            assert block_format.block in {16, 32, 64, 128, 256}


@pytest.mark.parametrize(
    "block_format", [BlockFormat(bits=4, block=32), BlockFormat(bits=8, block=64)]
)
def test_packed_codes_are_what_the_operator_reads(block_format):
    """The layout of onnxruntime's own quantizer: its kernel multiplies by exactly these values."""
    half = 2 ** (block_format.bits - 1)
    rng = np.random.default_rng(3)
    codes = rng.integers(-half, half, (WIDTH, 30)).astype(np.int8)
    scales = rng.uniform(-0.1, 0.1, (WIDTH // block_format.block, 30)).astype(np.float32)
    float_model = model(random(WIDTH, 30), random(VOCAB, WIDTH))
    key = storage_key(float_model.graph.initializers["W"].const_value)
    recipe = dataclasses.replace(INT8, layers=block_format)
    calibrated = {key: Codes(values=codes, scales=scales)}
    BlockWeights(QuantizedWeights(DIMS, recipe.formats, calibrated))(float_model)
    wanted = codes * np.repeat(scales, block_format.block, axis=0)
    # Each row has one value that is not zero: its blocks' activations are quantized exactly.
    found = run(float_model, np.eye(WIDTH, dtype=np.float32))["y"]
    # ARM kernels with dot products round the scales to 16 bits; x86's and older ARM's do not.
    np.testing.assert_allclose(found, wanted, rtol=0.01, atol=0.005)
