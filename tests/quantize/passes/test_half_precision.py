"""Half precision: types at the edges, float32 islands, and what they are for."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import check, dtypes, graph_of, run

from seq2edge.errors import ExportError
from seq2edge.quantize.emulation import emulate
from seq2edge.quantize.passes.half_precision import HalfPrecisionWeights, ToHalfPrecision

FLOAT, FLOAT16, BFLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16
INT64 = ir.DataType.INT64
ARRAYS = {FLOAT16: np.float16, BFLOAT16: ml_dtypes.bfloat16}
EYE = np.eye(4, dtype=np.float32)

EDGES = """(float[n, 4] features, float[n, 4] past_key_0, int64[n] ids)
    => (float[n, 4] logits, float[n, 4] embedding, float[n, 4] present_key_0, int64[n, 1] found)
{
    a = MatMul (features, W)
    b = Relu (a)
    logits = MatMul (b, V)
    embedding = Gather (T, ids)
    present_key_0 = Add (b, past_key_0)
    found = ArgMax <axis = 1, keepdims = 1> (b)
}"""

# x 100,000 inside, and small again outside.
LOUD = """(float[n, 4] past_key_0) => (float[n, 4] logits)
{
    loud = MatMul (past_key_0, W)
    logits = Mul (loud, s)
}"""
QUIET = np.array(1e-5, dtype=np.float32)


def narrowed(model, dtype=FLOAT16, wide=()):
    """The model after the pass, its types whole, and the pass."""
    change = ToHalfPrecision(HalfPrecisionWeights(dtype), frozenset(wide))
    change(model)
    check(model)
    return model, change


def emulated(model, **inputs):
    """What the narrow graph computes."""
    emulate(model)
    return run(model, **inputs)


@pytest.mark.parametrize("dtype", ARRAYS)
def test_only_what_people_feed_and_read_is_float32(dtype):
    """Features, logits and embeddings at the edge; caches, weights and all between are narrow."""
    weights = dict.fromkeys("WVT", EYE)
    model, change = narrowed(graph_of(EDGES, **weights), dtype)
    outputs = {value.name: value.dtype for value in model.graph.outputs}
    assert outputs == {"logits": FLOAT, "embedding": FLOAT, "present_key_0": dtype, "found": INT64}
    inputs = {value.name: value.dtype for value in model.graph.inputs}
    assert inputs == {"features": FLOAT, "past_key_0": dtype, "ids": INT64}
    assert {value.dtype for value in model.graph.initializers.values()} == {dtype}
    inner = {
        value.dtype for node in model.graph if node.op_type != "Cast" for value in node.outputs
    }
    assert inner == {dtype, INT64}
    assert change.islands == []


def test_a_wide_value_stays_float32_with_casts_around():
    """The nodes that write and read it compute in float32, their float32 weights with them."""
    text = LOUD.replace(
        "logits = Mul (loud, s)", "c = Mul (loud, s)\n d = Relu (c)\n logits = Neg (d)"
    )
    model, change = narrowed(graph_of(text, W=EYE * 1e5, s=QUIET), wide=["loud"])
    assert change.islands == ["MatMul_0", "Mul_1"]
    types = dtypes(model)
    assert (types["loud"], types["c"], types["d"]) == (FLOAT, FLOAT, FLOAT16)
    assert (types["W"], types["s"]) == (FLOAT, FLOAT)
    operators = [node.op_type for node in model.graph]
    assert operators == ["Cast", "MatMul", "Mul", "Cast", "Relu", "Neg", "Cast"]


@pytest.mark.parametrize(
    ("dtype", "wide", "answer"),
    [(FLOAT16, [], np.inf), (FLOAT16, ["loud"], 2.0), (BFLOAT16, [], 2.0)],
)
def test_what_overflows_is_finite_in_an_island_or_in_bfloat16(dtype, wide, answer):
    """And infinite in plain float16, which is what islands are for."""
    weight = EYE * 5e4  # that float16 holds
    model, _ = narrowed(graph_of(LOUD, W=weight, s=QUIET * 2), dtype, wide)
    x = np.full((1, 4), 2, dtype=np.float32)
    np.testing.assert_allclose(emulated(model, past_key_0=x)["logits"], answer, rtol=0.01)


@pytest.mark.parametrize(("size", "island"), [(65504.0, False), (65536.0, True)])
def test_a_weight_too_large_makes_an_island(size, island):
    """Without being named; bfloat16 holds it, and so does float16 up to its largest number."""
    model, change = narrowed(graph_of(LOUD, W=EYE * np.float32(size), s=QUIET))
    assert change.islands == (["MatMul_0"] if island else [])
    assert dtypes(model)["loud"] == (FLOAT if island else FLOAT16)
    _, change = narrowed(graph_of(LOUD, W=EYE * np.float32(size), s=QUIET), BFLOAT16)
    assert change.islands == []


def test_a_weight_that_both_read_is_there_in_both_types():
    """One that islands alone read is not made narrow, one that they do not read is not kept."""
    text = """(float[n, 4] past_key_0) => (float[n, 4] logits)
    {
        loud = MatMul (past_key_0, W)
        soft = MatMul (past_key_0, W)
        less = MatMul (loud, U)
        both = Add (less, soft)
        logits = MatMul (both, V)
    }"""
    model, _ = narrowed(graph_of(text, W=EYE, U=EYE, V=EYE), wide=["loud"])
    found = {name: value.dtype for name, value in model.graph.initializers.items()}
    assert found == {"W": FLOAT, "U": FLOAT, "W.float16": FLOAT16, "V.float16": FLOAT16}


@pytest.mark.parametrize("dtype", ARRAYS)
def test_angles_of_positions_are_computed_in_float32(dtype):
    """Neither type tells 2049 from 2048, and the sine of one is not that of the other."""
    text = """(int64[n] ids, float[n, 4] past_key_0) => (float[n, 4] logits)
    {
        position = Cast <to = 1> (ids)
        turned = Unsqueeze (position, axes)
        angle = Mul (turned, f)
        sine = Sin (angle)
        logits = Mul (past_key_0, sine)
    }"""
    frequencies = np.array([1, 0.1, 0.01, 0.001], dtype=np.float32)
    axes = np.array([1])
    model, _ = narrowed(graph_of(text, axes=axes, f=frequencies), dtype)
    types = dtypes(model)
    assert {types[name] for name in ("position", "turned", "angle", "sine")} == {FLOAT}
    positions = np.array([257, 2049])
    x = np.ones((2, 4), dtype=np.float32)
    found = emulated(model, ids=positions, past_key_0=x)["logits"]
    exact = np.sin(positions[:, None] * frequencies.astype(np.float64))
    np.testing.assert_allclose(found, exact, atol=2 ** (-11 if dtype == FLOAT16 else -8))


def test_a_mask_that_becomes_a_number_is_narrow():
    """It is no count: 0 and 1 are the same in every type."""
    text = """(bool[n, 4] seen, float[n, 4] past_key_0) => (float[n, 4] present_key_0)
    {
        mask = Cast <to = 1> (seen)
        present_key_0 = Mul (past_key_0, mask)
    }"""
    model, change = narrowed(graph_of(text))
    assert dtypes(model)["mask"] == FLOAT16
    assert [node.op_type for node in model.graph] == ["Cast", "Mul"]
    assert change.islands == []


QUANTIZED = """(float[n, 4] past_key_0) => (float[n, 4] logits)
{
    loud = Mul (past_key_0, s)
    codes = QuantizeLinear (loud, r, z)
    again = DequantizeLinear (codes, r, z)
    w = DequantizeLinear <axis = 1> (Q, c)
    less = MatMul (again, w)
    logits = MatMul (less, V)
}"""
PARTS = {
    "s": np.array(1e5, dtype=np.float32),
    "r": np.array(1000, dtype=np.float32),
    "z": np.array(0, dtype=np.int8),
    "Q": np.eye(4, dtype=np.int8),
    "c": np.full(4, 1e-5, dtype=np.float32),
    "V": EYE,
}


def test_a_wide_value_is_wide_after_quantization_too():
    """Its codes mean the same numbers, so the product that reads them is an island as well."""
    model, change = narrowed(graph_of(QUANTIZED, **PARTS), wide=["loud"])
    types = dtypes(model)
    assert (types["again"], types["less"]) == (FLOAT, FLOAT)
    x = np.ones((1, 4), dtype=np.float32)
    np.testing.assert_allclose(emulated(model, past_key_0=x)["logits"], 1.0, rtol=0.01)
    assert "MatMul_4" in change.islands
    assert "MatMul_5" not in change.islands


def test_weights_of_an_island_are_dequantized_to_float32():
    """Without a cast, which would keep the product from reading integers."""
    model, _ = narrowed(graph_of(QUANTIZED, **PARTS), wide=["loud"])
    types = dtypes(model)
    assert (types["w"], types["c"]) == (FLOAT, FLOAT)
    product = next(node for node in model.graph if node.name == "MatMul_4")
    assert {value.producer().op_type for value in product.inputs} == {"DequantizeLinear"}
    model, _ = narrowed(graph_of(QUANTIZED, **{**PARTS, "s": QUIET}))
    assert dtypes(model)["w"] == FLOAT16


def test_weights_dequantized_for_an_island_and_others_are_narrow():
    """The island casts them."""
    text = QUANTIZED.replace("logits = MatMul (less, V)", "logits = MatMul (less, w)")
    model, _ = narrowed(graph_of(text, **PARTS), wide=["loud"])
    assert dtypes(model)["w"] == FLOAT16
    x = np.ones((1, 4), dtype=np.float32)
    np.testing.assert_allclose(emulated(model, past_key_0=x)["logits"], 1e-5, rtol=0.02)


@pytest.mark.parametrize("name", ["present_key_0", "cross_value_1"])
def test_a_cache_that_would_overflow_is_an_error(name):
    """Caches have one type in all layers: the way out is bfloat16."""
    text = LOUD.replace("logits", name)
    with pytest.raises(ExportError, match=rf"{name} comes near the limits of float16.*use bf16"):
        narrowed(graph_of(text, W=EYE, s=QUIET), wide=[name])


def test_a_value_of_unknown_type_is_an_error():
    """Instead of a graph that mixes types."""
    model = graph_of(LOUD, W=EYE, s=QUIET)
    model.graph[0].outputs[0].type = None
    with pytest.raises(ExportError, match="half precision: the types of loud are unknown"):
        ToHalfPrecision(HalfPrecisionWeights(FLOAT16))(model)


@pytest.mark.parametrize("dtype", ARRAYS)
def test_weights_are_rounded_once_for_all_graphs(dtype):
    """Equal places give the same memory, with numpy's own rounding."""
    weight = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    tensor = ir.Tensor(weight)
    weights = HalfPrecisionWeights(dtype)
    first, second = weights.convert(tensor).numpy(), weights.convert(tensor).numpy()
    assert first.__array_interface__["data"] == second.__array_interface__["data"]
    np.testing.assert_array_equal(first.astype(np.float32), weight.astype(ARRAYS[dtype]))


def test_a_weight_never_takes_the_place_of_one_that_is_gone():
    """Python gives memory that was freed to the next tensor."""
    weights = HalfPrecisionWeights(FLOAT16)
    for number in range(50):
        made = weights.convert(ir.Tensor(np.full((2, 2), number, dtype=np.float32)))
        assert made.numpy()[0, 0] == number


def test_an_output_takes_no_name_that_is_in_use(exported):
    """An embedding model's look-up is called embedding.inner, since its output is embedding."""
    path = exported("bert-embedding")[1] / "bundle" / "encoder.onnx"
    model, _ = narrowed(ir.load(path))
    names = [value.name for node in model.graph for value in node.outputs]
    assert "embedding.inner" in names
    assert len(names) == len(set(names))
