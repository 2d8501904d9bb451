"""Norms, rotations and small operators in opset 18 compute what the newer ones do."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from lowering import FLOATS, compare, drawn, model_of, value_of

from seq2edge.errors import ExportError
from seq2edge.export.passes.lower_to_opset18 import LowerToOpset18


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_root_mean_square_of_large_values_does_not_overflow(dtype):
    """The square of 300 is no float16; the operator computes in float32."""
    kind = FLOATS[dtype][0]
    inputs = [value_of("x", ("rows", "new", 8), kind), value_of("scale", (8,), kind)]
    node = ir.node("RMSNormalization", inputs, {"axis": -1, "epsilon": 1e-6}, name="norm")
    model = model_of(node, inputs, [(("rows", "new", 8), kind)])
    feeds = drawn(model, dtype, rows=2, new=3)
    feeds["x"] = feeds["x"] * np.array(900, dtype=dtype)
    assert np.abs(feeds["x"]).max() > 300
    compare(model, feeds, dtype)


def test_a_norm_of_several_axes_is_an_error():
    """No model here has one."""
    x = value_of("x", ("rows", "new", 8), ir.DataType.FLOAT)
    node = ir.node("RMSNormalization", [x, x], {"axis": 1}, name="norm")
    with pytest.raises(ExportError, match="norm normalises more than the last axis"):
        LowerToOpset18()(model_of(node, [x], [(("rows", "new", 8), ir.DataType.FLOAT)]))


def rotation(dtype=ir.DataType.FLOAT, **attributes):
    """Two heads of 8 turned, or a part of each."""
    rotated = attributes.get("rotary_embedding_dim", 8)
    x, angles = ("rows", "new", 16), ("rows", "new", rotated // 2)
    inputs = [value_of(n, s, dtype) for n, s in (("x", x), ("cos", angles), ("sin", angles))]
    node = ir.node("RotaryEmbedding", inputs, {"num_heads": 2, **attributes}, name="turn")
    return model_of(node, inputs, [(x, dtype)])


@pytest.mark.parametrize("dtype", FLOATS)
def test_halves_are_turned_together(dtype):
    """Not neighbours."""
    model = rotation(FLOATS[dtype][0], interleaved=0)
    compare(model, drawn(model, dtype, rows=3, new=5), dtype)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_rest_of_a_head_is_not_turned(dtype):
    """Six of eight values are."""
    model = rotation(FLOATS[dtype][0], rotary_embedding_dim=6)
    compare(model, drawn(model, dtype, rows=3, new=5), dtype)


def test_another_rotation_is_an_error():
    """Of neighbours."""
    with pytest.raises(ExportError, match="turn is no rotation of halves"):
        LowerToOpset18()(rotation(interleaved=1))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_exact_and_by_tanh(dtype, approximate):
    """Over the whole range, where cubes overflow float16 too."""
    kind = FLOATS[dtype][0]
    x = value_of("x", ("n",), kind)
    node = ir.node("Gelu", [x], {"approximate": approximate}, name="gelu")
    model = model_of(node, [x], [(("n",), kind)])
    points = np.concatenate([np.linspace(-6, 6, 97), [-3e4, -50, 50, 3e4]]).astype(dtype)
    found = compare(model, {"x": points}, dtype, scale=2.0 if dtype == "float16" else 1.0)[0]
    assert found[-4:].tolist() == [0, 0, 50, points[-1]]


@pytest.mark.parametrize("limits", [("least", "most"), ("least", None), (None, "most")])
def test_integers_are_clipped_by_max_and_min(limits):
    """With both limits or one; floats keep their Clip."""
    integer = ir.DataType.INT64
    x = value_of("x", ("n",), integer)
    given = [value_of(name, (), integer) if name else None for name in limits]
    node = ir.node("Clip", [x, *given], name="clip")
    model = model_of(node, [x, *(v for v in given if v)], [(("n",), integer)])
    feeds = {"x": np.arange(-5, 6), "least": np.array(-2), "most": np.array(3)}
    compare(model, {v.name: feeds[v.name] for v in model.graph.inputs})
    assert {n.op_type for n in model.graph} <= {"Max", "Min"}


def test_floats_keep_their_clip():
    """Old parsers read it."""
    x = value_of("x", ("n",), ir.DataType.FLOAT)
    model = model_of(ir.node("Clip", [x], name="clip"), [x], [(("n",), ir.DataType.FLOAT)])
    compare(model, {"x": np.ones(2, dtype=np.float32)})
    assert [n.op_type for n in model.graph] == ["Clip"]


def test_squeezed_axes_are_named():
    """All of size one; an axis of no known size cannot be told."""
    x = value_of("x", (1, 4, 1), ir.DataType.FLOAT)
    model = model_of(ir.node("Squeeze", [x], name="s"), [x], [((4,), ir.DataType.FLOAT)])
    compare(model, {"x": np.ones((1, 4, 1), dtype=np.float32)})
    assert model.graph[-1].inputs[1].const_value.numpy().tolist() == [0, 2]
    x = value_of("x", (1, "n"), ir.DataType.FLOAT)
    model = model_of(ir.node("Squeeze", [x], name="s"), [x], [(("n",), ir.DataType.FLOAT)])
    with pytest.raises(ExportError, match="s squeezes axes that are not known"):
        LowerToOpset18()(model)


def test_equal_parts_get_their_lengths():
    """Of an axis of known size that they divide."""
    kind = ir.DataType.FLOAT
    x = value_of("x", ("n", 6), kind)
    node = ir.node("Split", [x], {"axis": 1, "num_outputs": 2}, num_outputs=2, name="split")
    model = model_of(node, [x], [(("n", 3), kind), (("n", 3), kind)])
    compare(model, {"x": np.arange(12, dtype=np.float32).reshape(2, 6)})
    assert model.graph[-1].inputs[1].const_value.numpy().tolist() == [3, 3]
    x = value_of("x", ("n", 6), kind)
    node = ir.node("Split", [x], {"axis": 0, "num_outputs": 2}, num_outputs=2, name="split")
    with pytest.raises(ExportError, match="split splits an axis that is not known"):
        LowerToOpset18()(model_of(node, [x], [(("n", 6), kind), (("n", 6), kind)]))
