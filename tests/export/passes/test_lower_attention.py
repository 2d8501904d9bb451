"""Attention and its cache in opset 18 compute what the newer operators do."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from lowering import FLOATS, compare, drawn, model_of, run, value_of

from seq2edge.errors import ExportError
from seq2edge.export.passes.lower_to_opset18 import LowerToOpset18


def attention(kind, mask, heads=4, kv_heads=2, **attributes):
    """One attention over 6 keys of 8; `mask` is the mask's (batch, heads, new), or None."""
    shapes = {
        "query": ("batch", heads, "new", 8),
        "key": ("batch", kv_heads, "total", 8),
        "value": ("batch", kv_heads, "total", 8),
    }
    if mask is not None:
        shapes["mask"] = (*mask, "total")
    inputs = [value_of(name, shape, kind) for name, shape in shapes.items()]
    node = ir.node("Attention", inputs, attributes, name="attention")
    return model_of(node, inputs, [(("batch", heads, "new", 8), kind)])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize(
    "mask", [None, ("batch", 1, "new"), (1, 4, "new"), ("batch", 4, "new"), ("batch", 1, 1)]
)
def test_attention_of_every_form(dtype, kv_heads, mask):
    """Grouped queries or not, masks for rows, heads and queries or for some of them."""
    model = attention(FLOATS[dtype][0], mask, kv_heads=kv_heads, scale=0.3)
    feeds = drawn(model, dtype, batch=3, new=3, total=6)
    if mask == ("batch", 1, 1):  # the operator's own kernel wants every query's mask
        model = attention(FLOATS[dtype][0], ("batch", 1, "new"), kv_heads=kv_heads, scale=0.3)
        wide = {**feeds, "mask": feeds["mask"].repeat(3, axis=2)}
        wanted = run(model, wide)[0].astype(np.float32)
        model = attention(FLOATS[dtype][0], mask, kv_heads=kv_heads, scale=0.3)
        LowerToOpset18()(model)
        found = run(model, feeds)[0].astype(np.float32)
        np.testing.assert_allclose(found, wanted, atol=FLOATS[dtype][1], rtol=0)
        return
    compare(model, feeds, dtype)


def test_attention_without_a_scale_has_the_usual_one():
    """One over the square root of head_dim; a scale of one costs no node."""
    model = attention(ir.DataType.FLOAT, None)
    compare(model, drawn(model, "float32", batch=2, new=3, total=6))
    plain = attention(ir.DataType.FLOAT, None, scale=1.0)
    compare(plain, drawn(plain, "float32", batch=2, new=3, total=6))
    assert "Mul" not in {node.op_type for node in plain.graph}


def test_scores_stay_in_the_range_of_float16():
    """The query is scaled before the product, which would be 80,000 without."""
    model = attention(ir.DataType.FLOAT16, None, kv_heads=4, scale=0.01)
    feeds = {v.name: np.full((1, 4, 2, 8), 100.0, dtype=np.float16) for v in model.graph.inputs}
    assert np.isfinite(compare(model, feeds, "float16")[0]).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_scores_are_bounded_before_they_are_masked(dtype):
    """Else a masked one would be the bound and no less."""
    model = attention(FLOATS[dtype][0], ("batch", 1, "new"), scale=2.0, softcap=1.5)
    feeds = drawn(model, dtype, batch=3, new=3, total=6)
    feeds["mask"][:, :, :, 4:] = -1e4
    found = compare(model, feeds, dtype)[0]
    feeds["value"][:, :, 4:] += 1
    np.testing.assert_array_equal(run(model, feeds)[0].astype(np.float32), found)


def test_attention_that_is_not_masked_is_an_error():
    """What the pass before this one turns into masks."""
    message = "a past or is_causal; run length_to_mask first"
    with pytest.raises(ExportError, match=message):
        LowerToOpset18()(attention(ir.DataType.FLOAT, None, is_causal=1))


def test_lengths_are_an_error():
    """They would vanish."""
    model = attention(ir.DataType.FLOAT, ("batch", 1, "new"))
    node = model.graph[-1]
    node.resize_inputs(7)
    node.replace_input_with(6, value_of("length", ("batch",), ir.DataType.INT64))
    with pytest.raises(ExportError, match="attention has lengths"):
        LowerToOpset18()(model)


def test_a_boolean_mask_is_an_error():
    """It cannot be added."""
    model = attention(ir.DataType.FLOAT, ("batch", 1, "new"))
    model.graph.inputs[3].type = ir.TensorType(ir.DataType.BOOL)
    with pytest.raises(ExportError, match="a mask of another type than its query"):
        LowerToOpset18()(model)


def test_attention_of_merged_heads_is_an_error():
    """The three-dimensional form of the operator."""
    model = attention(ir.DataType.FLOAT, None)
    model.graph.inputs[0].shape = ir.Shape(["batch", "new", 32])
    with pytest.raises(ExportError, match=r"not \(batch, heads, length, head_dim\)"):
        LowerToOpset18()(model)


def test_attention_of_unknown_heads_is_an_error():
    """Groups are a matter of two numbers."""
    model = attention(ir.DataType.FLOAT, None)
    model.graph.inputs[1].shape = ir.Shape(["batch", "heads", "total", 8])
    with pytest.raises(ExportError, match="no fixed number of heads"):
        LowerToOpset18()(model)


def test_a_mask_for_heads_without_queries_is_an_error():
    """Its groups cannot be folded; no pass makes one."""
    with pytest.raises(ExportError, match="a mask for heads without queries"):
        LowerToOpset18()(attention(ir.DataType.FLOAT, ("batch", 4, 1)))


def cache_write(dtype=ir.DataType.FLOAT, axis=2, mode="linear"):
    """One TensorScatter."""
    cache, update = ("rows", 2, "capacity", 4), ("rows", 2, "new", 4)
    inputs = [value_of("cache", cache, dtype), value_of("update", update, dtype)]
    inputs.append(value_of("start", ("rows",), ir.DataType.INT64))
    node = ir.node("TensorScatter", inputs, {"axis": axis, "mode": mode}, name="write")
    return model_of(node, inputs, [(cache, dtype)])


def test_a_write_of_unknown_heads_is_an_error():
    """Their places are counted in the graph's text."""
    model = cache_write()
    model.graph.inputs[1].shape = ir.Shape(["rows", "heads", "new", 4])
    with pytest.raises(ExportError, match="write has no fixed number of heads"):
        LowerToOpset18()(model)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("new", "starts"), [(3, [0, 4, 1]), (1, [6, 0, 3]), (7, [0, 0, 0])])
def test_a_cache_is_written_where_each_row_ends(dtype, new, starts):
    """The very values, at each row's own place, and nothing else changed."""
    rng = np.random.default_rng(6)
    feeds = {
        "cache": rng.standard_normal((3, 2, 7, 4)).astype(dtype),
        "update": rng.standard_normal((3, 2, new, 4)).astype(dtype),
        "start": np.array(starts),
    }
    model = cache_write(FLOATS[dtype][0])
    wanted = run(model, feeds)[0]
    assert np.array_equal(compare(model, feeds, dtype)[0], wanted)


@pytest.mark.parametrize("change", [{"axis": 1}, {"mode": "circular"}])
def test_another_kind_of_write_is_an_error(change):
    """Along another axis, or around the end."""
    with pytest.raises(ExportError, match="write is no linear write along axis 2"):
        LowerToOpset18()(cache_write(**change))
