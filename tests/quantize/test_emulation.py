"""The float32 twin rounds as half precision does, and changes nothing else."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import check, dtypes, graph_of, run

import seq2edge
from seq2edge.bundle import Bundle
from seq2edge.quantize.emulation import emulate, emulate_bundle
from seq2edge.quantize.passes.half_precision import HalfPrecisionWeights, ToHalfPrecision
from seq2edge.runtime.backend import all_logits

FLOAT, FLOAT16, BFLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16
ARRAYS = {FLOAT16: np.float16, BFLOAT16: ml_dtypes.bfloat16}

CHAIN = """(float[n, k] features, float[n, k] past_key_0)
    => (float[n, k] logits, float[n, k] cross_key_0)
{
    a = Mul (features, W)
    turned = Transpose <perm = [1, 0]> (a)
    back = Transpose <perm = [1, 0]> (turned)
    logits = Add (back, past_key_0)
    cross_key_0 = Relu (a)
}"""


def values(count=4096):
    """Numbers of every size that float16 has and has not, halves between two of them too."""
    rng = np.random.default_rng(0)
    sizes = 2.0 ** rng.uniform(-28, 18, (2, count // 2))
    halves = 1 + (2 * np.arange(count // 2) + 1) / 2**12
    signs = rng.choice([-1.0, 1.0], (2, count // 2))
    return np.concatenate([sizes * signs, halves[None]]).astype(np.float32)


def narrowed(text, dtype, wide=(), **weights):
    """The narrow graph of a text."""
    model = graph_of(text, **weights)
    ToHalfPrecision(HalfPrecisionWeights(dtype), frozenset(wide))(model)
    return model


@pytest.mark.parametrize("dtype", ARRAYS)
def test_every_result_is_rounded_as_numpy_rounds(dtype):
    """Inputs, weights, results: to even, to infinity and through subnormals, bit for bit."""
    array = ARRAYS[dtype]
    x, weight = values(), np.array([[3.3], [-1e-3], [0.7]], dtype=np.float32)
    with np.errstate(over="ignore"):
        past = x[::-1].astype(array)
    model = narrowed(CHAIN, dtype, W=weight)
    emulate(model)
    check(model)
    found = run(model, features=x, past_key_0=past.astype(np.float32))
    with np.errstate(over="ignore", invalid="ignore"):
        product = x.astype(array) * weight.astype(array)
        total = product + past
    np.testing.assert_array_equal(found["logits"], total.astype(np.float32))
    np.testing.assert_array_equal(found["cross_key_0"], np.maximum(product, 0).astype(np.float32))
    assert np.isinf(found["logits"]).any() == (dtype == FLOAT16)


def test_sums_inside_a_product_are_not_rounded():
    """As in the matrix units of GPUs: 2048 ones and a half are 2048.5, then rounded."""
    text = "(float[1, 2049] features) => (float[1, 1] logits) { logits = MatMul (features, W) }"
    weight = np.ones((2049, 1), dtype=np.float32)
    weight[0] = 3.5
    model = narrowed(text, FLOAT16, W=weight)
    emulate(model)
    found = run(model, features=np.ones((1, 2049), dtype=np.float32))["logits"]
    assert found[0, 0] == np.float16(2051.5) == 2052


def test_the_twin_is_a_float32_graph_of_the_same_inputs_and_outputs():
    """No half-precision input, output or weight is left; the types between casts are the narrow."""
    model = narrowed(CHAIN, BFLOAT16, W=values()[:, :1])
    before = [value.name for value in (*model.graph.inputs, *model.graph.outputs)]
    emulate(model)
    edges = (*model.graph.inputs, *model.graph.outputs)
    assert [value.name for value in edges] == before
    assert {value.dtype for value in (*edges, *model.graph.initializers.values())} == {FLOAT}
    casts = [node for node in model.graph if node.op_type == "Cast"]
    results = {value.dtype for node in model.graph for value in node.outputs if node not in casts}
    assert results == {FLOAT}
    assert {node.outputs[0].dtype for node in casts} == {FLOAT, BFLOAT16}


def test_islands_are_not_rounded():
    """What the narrow graph computes in float32 stays exact."""
    text = """(float[n, k] features) => (float[n, k] logits)
    {
        a = Mul (features, W)
        logits = Add (a, a)
    }"""
    model = narrowed(text, FLOAT16, wide=["a"], W=np.array(1.0, dtype=np.float32))
    emulate(model)
    x = np.array([[1 + 2**-14, 1e6, 1e-6]], dtype=np.float32)
    np.testing.assert_array_equal(run(model, features=x)["logits"], 2 * x)


def test_integers_stay_integers():
    """Ids, and the codes of quantized values with float32 scales behind them."""
    text = """(float[n, k] features) => (float[n, k] logits, int64[n, 1] best)
    {
        a = Mul (features, W)
        codes = QuantizeLinear (a, s, z)
        logits = DequantizeLinear (codes, s, z)
        best = ArgMax <axis = 1> (a)
    }"""
    scales = {"s": np.array(0.1, dtype=np.float32), "z": np.array(0, dtype=np.int8)}
    model = narrowed(text, FLOAT16, W=np.array(1.0, dtype=np.float32), **scales)
    emulate(model)
    check(model)
    found = run(model, features=np.array([[0.26, -30.0, 3.1]], dtype=np.float32))
    step = np.float16(0.1)
    wanted = np.array([[3, -128, 31]], dtype=np.float16) * step
    np.testing.assert_array_equal(found["logits"], wanted.astype(np.float32))
    assert found["best"] == 2
    assert dtypes(model)["codes"] == ir.DataType.INT8


@pytest.mark.parametrize(("dtype", "close"), [(FLOAT16, 0.02), (BFLOAT16, 0.15)])
def test_an_emulated_bundle_is_a_bundle_that_runs(exported, tmp_path, dtype, close):
    """Its answers differ from the float ones by rounding alone; the models given stay narrow."""
    source = Bundle.open(exported("gpt2")[1] / "bundle")
    models = {"decoder": ir.load(source.file(source.graph("decoder", "canonical").file))}
    ToHalfPrecision(HalfPrecisionWeights(dtype))(models["decoder"])
    narrow = dtypes(models["decoder"])
    twin = emulate_bundle(tmp_path / "twin", source, models)
    assert dtypes(models["decoder"]) == narrow
    assert [graph.target for graph in twin.manifest.graphs] == ["canonical"]
    wanted, found = (first_logits(bundle.path) for bundle in (source, twin))
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert 0 < error < close


def first_logits(path):
    """What the canonical graph answers to a prompt."""
    model = seq2edge.load(path, device="cpu", threads=1, graphs="canonical")
    cache = model.backend.start(None, 1, None)
    return all_logits(model.backend.step(np.array([[5, 6, 7]]), np.array([3]), cache)).copy()
