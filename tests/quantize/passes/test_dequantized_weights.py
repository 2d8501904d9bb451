"""Integer weights behind DequantizeLinear: forms, exact values, and what stays float."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import check, graph_of, run

from seq2edge.export.weights import WeightsWriter
from seq2edge.model.dims import Dims, StackDims
from seq2edge.quantize.passes.block_weights import Codes, QuantizedWeights
from seq2edge.quantize.passes.dequantized_weights import DequantizedWeights, ScaledWeights
from seq2edge.quantize.passes.half_precision import HalfPrecisionWeights, ToHalfPrecision
from seq2edge.quantize.passes.weight_uses import find_weight_uses
from seq2edge.quantize.recipes import RECIPES

STACK = StackDims(layers=1, heads=1, kv_heads=1, head_dim=4, hidden=4, activation="relu")
VOCAB, WIDTH, OUT = 48, 64, 30
DIMS = Dims(width=WIDTH, vocab=VOCAB, decoder=STACK)
INT8, INT4, STATIC = (RECIPES[name] for name in ("int8-weight", "int4-weight", "int8-static"))

TEXT = """(float[n, 64] x, int64[k] ids)
    => (float[n, 30] y, float[n, 48] logits, float[k, 64] rows)
{
    y = MatMul (x, W)
    logits = Gemm <transB = 1> (x, T)
    rows = Gather (T, ids)
}"""


def random(*shape, seed=0):
    """Reproducible values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def model(weight=None, table=None, text=TEXT):
    """y = x @ W, logits = x @ T^T, rows = T[ids]."""
    weight = random(WIDTH, OUT, seed=1) if weight is None else weight
    table = random(VOCAB, WIDTH, seed=2) if table is None else table
    return graph_of(text, W=weight, T=table)


def scaled(recipe=INT8, dims=DIMS, calibrated=None):
    """Weights to share between passes."""
    return ScaledWeights(QuantizedWeights(dims, recipe.formats, calibrated), recipe.activations)


def quantized(float_model, recipe=INT8, ranges=None, **options):
    """The model after the pass, found valid, and the pass."""
    change = DequantizedWeights(scaled(recipe, **options), ranges)
    change(float_model)
    check(float_model)
    return float_model, change


def nodes(any_model, operator):
    """All nodes of that type."""
    return [node for node in any_model.graph if node.op_type == operator]


def constant(any_model, name):
    """The numbers of a weight."""
    return any_model.graph.initializers[name].const_value.numpy()


def columns(weight, dtype=np.float16):
    """Symmetric 8 bits, a scale for each column, by the book; the scales are of that type."""
    scales = (np.abs(weight).max(axis=0) / 127).astype(dtype).astype(np.float32)
    return np.clip(np.rint(weight / scales), -127, 127) * scales


@pytest.mark.parametrize("name", ["int8-weight", "int8-static"])
def test_eight_bits_have_a_scale_for_each_column(name):
    """Exactly these numbers, whichever way round the weight is stored."""
    weight, table = random(WIDTH, OUT, seed=1), random(VOCAB, WIDTH, seed=2)
    changed, change = quantized(model(weight, table), RECIPES[name])
    found = run(changed, x=np.eye(WIDTH, dtype=np.float32), ids=np.arange(VOCAB))
    np.testing.assert_array_equal(found["y"], columns(weight))
    np.testing.assert_array_equal(found["logits"], columns(table.T))
    np.testing.assert_array_equal(found["rows"], columns(table.T).T)
    assert change.changed == {"W": "int8, a scale a column", "T": "int8, a scale a column"}
    assert constant(changed, "W.codes").dtype == np.int8
    assert np.abs(constant(changed, "W.codes")).max(axis=0).tolist() == [127] * OUT
    axes = {n.name: n.attributes["axis"].as_int() for n in nodes(changed, "DequantizeLinear")}
    assert axes == {"W.dequantized": 1, "T.dequantized": 0}


def test_codes_are_of_the_scales_that_the_engine_has():
    """A bfloat16 scale is up to 1/256 off: 127 codes of an exact one would be half a step off."""
    weight = random(WIDTH, OUT, seed=1)
    changed, _ = quantized(model(weight), dataclasses.replace(INT8, activations="bfloat16"))
    found = run(changed, x=np.eye(WIDTH, dtype=np.float32), ids=[0])["y"]
    np.testing.assert_array_equal(found, columns(weight, ml_dtypes.bfloat16))
    scales = constant(changed, "W.scales")
    np.testing.assert_array_equal(scales, scales.astype(ml_dtypes.bfloat16).astype(np.float32))
    inside = np.abs(weight) <= 126 * scales
    assert np.abs(found - weight)[inside].max() <= 0.5001 * scales.max()


@pytest.mark.parametrize("size", [0.0, 1e-7])
def test_a_column_of_nothing_gets_a_scale_that_divides(size):
    """Zeros, or numbers that have no scale in float16: zeros come back, and nothing infinite."""
    weight = random(WIDTH, OUT, seed=1)
    weight[:, 3] = size
    changed, _ = quantized(model(weight))
    assert constant(changed, "W.scales")[3] == 1
    found = run(changed, x=np.eye(WIDTH, dtype=np.float32), ids=[0])["y"]
    assert not found[:, 3].any()
    assert np.isfinite(found).all()


def test_four_bits_have_blocks_along_the_inner_axis():
    """The codes and scales of onnxruntime's own quantizer; table and attention have 8 bits."""
    weight = random(WIDTH, OUT, seed=1)
    float_model = model(weight)
    use = next(u for u in find_weight_uses(float_model.graph, {VOCAB}) if u.name == "W")
    blocked = QuantizedWeights(DIMS, INT4.formats).blocked(use)
    codes = np.stack([blocked.packed & 15, blocked.packed >> 4], axis=-1).reshape(OUT, 2, 32)
    scales = blocked.scales.reshape(OUT, 2, 1).astype(np.float16).astype(np.float32)
    wanted = ((codes.astype(np.float32) - 8) * scales).reshape(OUT, WIDTH).T
    changed, change = quantized(float_model, INT4)
    found = run(changed, x=np.eye(WIDTH, dtype=np.float32), ids=[0])["y"]
    np.testing.assert_array_equal(found, wanted)
    assert np.abs(found - weight).max() < 0.6 * np.abs(weight).max() / 7
    assert change.changed == {"W": "int4, blocks of 32", "T": "int8, a scale a column"}
    node = next(n for n in nodes(changed, "DequantizeLinear") if n.name == "W.dequantized")
    assert (node.attributes["axis"].as_int(), node.attributes["block_size"].as_int()) == (0, 32)
    assert changed.graph.initializers["W.codes"].dtype == ir.DataType.INT4
    assert constant(changed, "W.scales").shape == (2, OUT)


def test_four_bits_of_a_transposed_weight_have_its_layout():
    """Stored (N, K), blocks along the second axis."""
    text = TEXT.replace("MatMul (x, W)", "Gemm <transB = 1> (x, W)")
    weight = random(WIDTH, OUT, seed=1)
    changed, change = quantized(model(weight.T, text=text), INT4)
    plain, _ = quantized(model(weight), INT4)
    x = np.eye(WIDTH, dtype=np.float32)
    np.testing.assert_array_equal(run(changed, x=x, ids=[0])["y"], run(plain, x=x, ids=[0])["y"])
    assert constant(changed, "W.codes").shape == (OUT, WIDTH)
    assert constant(changed, "W.scales").shape == (OUT, 2)
    assert change.changed["W"] == "int4, blocks of 32"


def test_calibrated_codes_are_taken_as_they_are():
    """What a method made of examples."""
    rng = np.random.default_rng(3)
    codes = rng.integers(-8, 8, (WIDTH, OUT)).astype(np.int8)
    scales = rng.uniform(0.01, 0.1, (2, OUT)).astype(np.float16).astype(np.float32)
    float_model = model()
    (key,) = (u.storage_key for u in find_weight_uses(float_model.graph, {VOCAB}) if u.name == "W")
    calibrated = {key: Codes(values=codes, scales=scales)}
    changed, _ = quantized(float_model, INT4, calibrated=calibrated)
    found = run(changed, x=np.eye(WIDTH, dtype=np.float32), ids=[0])["y"]
    np.testing.assert_array_equal(found, codes * np.repeat(scales, 32, axis=0))


def test_a_block_without_a_scale_in_float16_is_zeros():
    """Its codes would count whole ones otherwise."""
    float_model = model()
    (key,) = (u.storage_key for u in find_weight_uses(float_model.graph, {VOCAB}) if u.name == "W")
    scales = np.full((2, OUT), 0.5, dtype=np.float32)
    scales[1, 4] = 1e-9
    codes = np.full((WIDTH, OUT), 5, dtype=np.int8)
    calibrated = {key: Codes(values=codes, scales=scales)}
    changed, _ = quantized(float_model, INT4, calibrated=calibrated)
    assert (constant(changed, "W.scales") > 0).all()
    found = run(changed, x=np.eye(WIDTH, dtype=np.float32), ids=[0])["y"]
    assert not found[32:, 4].any()
    assert set(np.delete(found, 4, axis=1).ravel()) == {2.5}


def test_a_tied_table_is_dequantized_once():
    """For the look-up and the product, over one array of codes."""
    changed, _ = quantized(model())
    names = [node.name for node in nodes(changed, "DequantizeLinear")]
    assert sorted(names) == ["T.dequantized", "W.dequantized"]
    readers = {
        node.op_type
        for node in changed.graph
        if any(value is not None and value.name == "T.dequantized" for value in node.inputs)
    }
    assert readers == {"Gemm", "Gather"}
    assert set(changed.graph.initializers) == {"W.codes", "W.scales", "T.codes", "T.scales"}


@pytest.mark.parametrize("recipe", [INT8, INT4, STATIC], ids=lambda recipe: recipe.name)
def test_odd_widths_stay_float(recipe):
    """Products, and the heads and tables of an odd vocabulary; told as such."""
    text = TEXT.replace("n, 30", "n, 31").replace("n, 48", "n, 49")
    dims = Dims(width=WIDTH, vocab=49, decoder=STACK)
    float_model = model(random(WIDTH, 31), random(49, WIDTH), text)
    changed, change = quantized(float_model, recipe, {"x": 1.0}, dims=dims)
    assert change.changed == {"W": "float32", "T": "float32"}
    assert sorted(node.op_type for node in changed.graph) == ["Gather", "Gemm", "MatMul"]
    assert set(changed.graph.initializers) == {"W", "T"}


@pytest.mark.parametrize(("inner", "form"), [(32, "float32"), (48, "int4, blocks of 16")])
def test_four_bits_need_two_whole_blocks(inner, form):
    """One scale for a whole column would be read as no blocks at all."""
    dims = Dims(width=inner, vocab=VOCAB, decoder=STACK)
    text = TEXT.replace("64]", f"{inner}]")
    float_model = model(random(inner, OUT), random(VOCAB, inner), text)
    _, change = quantized(float_model, INT4, dims=dims)
    assert change.changed == {"W": form, "T": "int8, a scale a column"}


def test_inputs_are_quantized_for_products_and_not_for_tables():
    """Where their largest value is known; all products that read one share its codes."""
    text = TEXT.replace("logits =", "more = MatMul (x, W)\n z = MatMul (more, U)\n logits =")
    float_model = graph_of(
        text.replace("float[n, 48] logits", "float[n, 8] z, float[n, 48] logits"),
        W=random(WIDTH, OUT, seed=1),
        T=random(VOCAB, WIDTH, seed=2),
        U=random(OUT, 8, seed=3),
    )
    changed, change = quantized(float_model, STATIC, {"x": 6.35})
    assert change.changed == {
        "W": "int8, a scale a column, inputs int8",
        "U": "int8, a scale a column",
        "T": "int8, a scale a column",
    }
    (down,) = nodes(changed, "QuantizeLinear")
    assert constant(changed, "x.scale") == np.float32(6.35 / 127)
    assert constant(changed, "quantized.zero").dtype == np.int8
    readers = {node.op_type for node in changed.graph if node.inputs[0].name == "x.dequantized"}
    assert readers == {"MatMul"}
    assert down.inputs[0].name == "x"
    assert [n.inputs[0].name for n in nodes(changed, "Gemm")] == ["x"]
    x = np.array([[6.3, 0.06, -50.0, 0.02] * 16], dtype=np.float32)
    rounded = np.array([[126, 1, -128, 0] * 16], dtype=np.float32) * np.float32(6.35 / 127)
    found = run(changed, x=x, ids=[0])
    wanted = rounded @ columns(random(WIDTH, OUT, seed=1))
    np.testing.assert_allclose(found["y"], wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("recipe", [INT8, INT4], ids=lambda recipe: recipe.name)
def test_codes_and_scales_of_two_graphs_are_stored_once(tmp_path, recipe):
    """After narrowing too, which makes scales of another type."""
    weight, table = (ir.Tensor(random(*shape)) for shape in ((256, 512), (VOCAB, 256)))
    dims = Dims(width=256, vocab=VOCAB, decoder=STACK)
    weights, narrow = scaled(recipe, dims), HalfPrecisionWeights(ir.DataType.FLOAT16)
    text = TEXT.replace("64]", "256]").replace("n, 30", "n, 512")
    models = []
    for _ in range(2):
        made = graph_of(text, W=np.zeros((256, 512), np.float32), T=np.zeros((VOCAB, 256), "f4"))
        made.graph.initializers["W"].const_value = weight
        made.graph.initializers["T"].const_value = table
        DequantizedWeights(weights)(made)
        ToHalfPrecision(narrow)(made)
        models.append(made)
    WeightsWriter(tmp_path / "weights.data").write(models)
    first, second = (made.graph.initializers for made in models)
    assert (
        set(first) == set(second) == {"W.codes", "W.scales.float16", "T.codes", "T.scales.float16"}
    )
    for name in ("W.codes", "W.scales.float16", "T.codes"):
        one, other = first[name].const_value, second[name].const_value
        if one.nbytes > 1024:
            assert (one.offset, one.length) == (other.offset, other.length), name
    assert (tmp_path / "weights.data").stat().st_size < 1.2 * sum(
        value.const_value.nbytes for value in first.values()
    ) + 4096 * len(first)


def test_a_weight_is_read_in_its_own_layout_by_each_graph():
    """The same numbers as a table in one graph, as a plain product in another."""
    square = ir.Tensor(random(VOCAB, VOCAB))
    dims = Dims(width=VOCAB, vocab=VOCAB, decoder=STACK)
    weights = scaled(INT8, dims)
    product = graph_of(
        "(float[n, 48] x) => (float[n, 48] y) { y = MatMul (x, W) }", W=square.numpy()
    )
    table = graph_of("(int64[n] ids) => (float[n, 48] y) { y = Gather (W, ids) }", W=square.numpy())
    for made in (product, table):
        made.graph.initializers["W"].const_value = square
        DequantizedWeights(weights)(made)
    exact = square.numpy()
    found = run(product, x=np.eye(VOCAB, dtype=np.float32))["y"]
    np.testing.assert_array_equal(found, columns(exact))
    found = run(table, ids=np.arange(VOCAB))["y"]
    np.testing.assert_array_equal(found, columns(exact.T).T)
