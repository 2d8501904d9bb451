"""Failures of the real parser and builder name our node, the model's weight, and what to do."""

from __future__ import annotations

import importlib.util
import types

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from seq2edge.errors import EngineError, OptionError
from seq2edge.export.passes.length_to_mask import LengthToMask
from seq2edge.export.tensorrt.engine import Profile, build_engine, decoder_profiles
from seq2edge.export.tensorrt.errors import not_built, not_read

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt_rtx is not installed: pip install seq2edge[rtx]",
)

WEIGHT = "model.layers.0.attention.qkv.weight"
HEADER = '<ir_version: 10, opset_import: ["" : 24]>'
LIBRARY = types.SimpleNamespace(__name__="tensorrt", __version__="10.3.0")


def model_of(text, dtype=np.float32):
    """A graph of a text in which `w` is the weight of a layer, each node named after its kind."""
    proto = onnx.parser.parse_model(f"{HEADER} g {text}")
    proto.graph.initializer.append(
        onnx.numpy_helper.from_array(np.ones((8, 8), dtype), f"{WEIGHT}.float16")
    )
    for node in proto.graph.node:
        node.name = f"node_{node.op_type}"
        node.input[:] = [f"{WEIGHT}.float16" if name == "w" else name for name in node.input]
    return proto


def refusal(path, proto, **sizes):
    """The message of the error that building it raises, without the path."""
    onnx.save(proto, path / "g.onnx")
    profiles = [Profile(name="first", sizes=sizes), Profile(name="second", sizes=sizes)]
    with pytest.raises(EngineError) as found:
        build_engine(path / "g.onnx", profiles, capabilities=("SM86",))
    subject, _, message = str(found.value).partition(": ")
    assert subject == str(path / "g.onnx")
    assert "/_src/" not in message
    assert "Cuda" not in message
    return message.split(" ", 2)[2]  # without the library and its release


def test_an_unsupported_operator_is_told_with_the_weight_before_it(tmp_path):
    """It has none of its own."""
    text = """(float[batch, 8] x) => (uint8[batch, 8] y)
    {
        p = MatMul (x, w)
        a = Relu (p)
        y, s, z = DynamicQuantizeLinear (a)
    }"""
    assert refusal(tmp_path, model_of(text), batch=(1, 2, 4)) == (
        f"does not read node_DynamicQuantizeLinear (DynamicQuantizeLinear after {WEIGHT}): "
        "DynamicQuantizeLinear is not supported; "
        "build the graphs that seq2edge made for TensorRT, and report this if it is one"
    )


def test_an_ill_typed_input_is_told_with_its_weight(tmp_path):
    """Graphs are strongly typed: a product of two types is none."""
    proto = model_of("(float[batch, 8] x) => (float[batch, 8] y) { y = MatMul (x, w) }", np.float16)
    message = refusal(tmp_path, proto, batch=(1, 2, 4))
    assert message.startswith(
        f"does not read node_MatMul (MatMul of {WEIGHT}): IMatrixMultiplyLayer must have same input"
    )
    assert message.endswith("; types are in the graph: quantize it again")


def test_a_profile_that_cannot_be_is_told_by_its_name(tmp_path):
    """The library counts profiles, and says where sizes do not fit."""
    text = """(float[batch, 8] x, float[rows, 8] y) => (float[n, 8] z)
    {
        p = MatMul (x, w)
        z = Add (p, y)
    }"""
    message = refusal(tmp_path, model_of(text), batch=(2, 2, 4), rows=(2, 4, 8))
    assert message.startswith("made no engine, the best sizes of profile first violate shape")
    assert f"this is node_Add (Add after {WEIGHT})" in message
    assert message.endswith(
        "; give sizes that fit each other: --batch, --beams, --source, --prompt, --capacity"
    )


def test_sizes_beyond_the_librarys_integers_are_refused(tmp_path):
    """Its own error is no part of our tree."""
    proto = model_of("(float[batch, 8] x) => (float[batch, 8] y) { y = MatMul (x, w) }")
    onnx.save(proto, tmp_path / "g.onnx")
    profile = Profile(name="step", sizes={"batch": (1, 2, 2**31)})
    message = r"profile step: tensorrt_rtx does not take x of \(1, 8\) to \(2147483648, 8\) .*less"
    with pytest.raises(OptionError, match=message):
        build_engine(tmp_path / "g.onnx", [profile], capabilities=("SM86",))


def test_an_attention_of_a_model_is_told_by_its_layer(exported, tmp_path):
    """A whole decoder, its second attention spoilt."""
    model = ir.load(exported("gpt2")[1] / "bundle" / "decoder.onnx")
    LengthToMask()(model)
    spoilt = [node for node in model.graph if node.op_type == "Attention"][1]
    spoilt.attributes["softcap"] = ir.AttrFloat32("softcap", 5.0)
    ir.save(model, tmp_path / "g.onnx", external_data="weights.data")
    profiles = decoder_profiles(batch=(1, 1, 2), beams=1, source=(1, 1, 1), new=(1, 4, 8))
    with pytest.raises(EngineError) as found:
        build_engine(tmp_path / "g.onnx", profiles, static={"capacity": 32})
    where = "(Attention after model.decoder.layers.1.attention.qkv."
    assert f"{spoilt.name} {where}" in str(found.value)
    assert ": Setting softcap is not supported in TensorRT Attention; " in str(found.value)


def test_a_library_without_a_reason_is_no_riddle(tmp_path):
    """What is known is told: the graph, the library, what to do."""
    proto = model_of("(float[batch, 8] x) => (float[batch, 8] y) { y = MatMul (x, w) }")
    for error, what in (
        (not_read(tmp_path, proto, LIBRARY, []), "does not read"),
        (not_built(tmp_path, proto, LIBRARY, [], []), "made no engine"),
    ):
        assert str(error).startswith(f"{tmp_path}: tensorrt 10.3.0 {what}")
        assert "no reason was given" in str(error)
        assert "report this" in str(error)


@pytest.mark.parametrize(
    ("line", "fact", "remedy"),
    [
        (
            "Could not find any implementation for node {ForeignNode[node_MatMul...node_Relu]}.",
            "this is node_MatMul (MatMul of model.layers.0.attention.qkv.weight), node_Relu",
            "report this if it is one",
        ),
        (
            "Requested amount of GPU memory (9663676416 bytes) could not be allocated.",
            "(9663676416 bytes) could not be allocated",
            "ask for less: --batch, --source and --prompt, see --plan",
        ),
        ("kMAX values for profile 7 are odd", "the most sizes of profile 7 are odd", "report"),
    ],
)
def test_lines_of_the_builder_are_told_with_what_to_do(tmp_path, line, fact, remedy):
    """Lines of TensorRT as others reported them; nodes between two are told by both."""
    text = "(float[batch, 8] x) => (float[batch, 8] y) { p = MatMul (x, w) \n y = Relu (p) }"
    message = str(not_built(tmp_path, model_of(text), LIBRARY, [line, line], ["step"]))
    assert fact in message
    assert message.endswith(remedy) or remedy == "report"
    assert message.count("made no engine") == 1
