"""Real engines of tiny models, built without a GPU; what is in them is read from their report."""

from __future__ import annotations

import importlib.util
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tiny_models

from seq2edge.errors import BackendError, EngineError, OptionError
from seq2edge.export.passes.length_to_mask import LengthToMask
from seq2edge.export.passes.lower_to_opset18 import LowerToOpset18
from seq2edge.export.passes.scale_queries import ScaleQueries
from seq2edge.export.passes.top_logits import TopLogits
from seq2edge.export.tensorrt.engine import Profile, build_engine, decoder_profiles, import_tensorrt

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt_rtx is not installed: pip install seq2edge[rtx]",
)

CAPACITY = 64
BATCH, SOURCE = (1, 2, 4), (1, 16, 64)
ENCODER = [Profile(name="encoder", sizes={"batch": BATCH, "source": SOURCE})]
DECODER = decoder_profiles(batch=BATCH, beams=4, source=SOURCE, new=(1, 8, 32))
PREFILL, STEP = 0, 1
# Heads of 64, which fused kernels exist for.
MODELS = {
    "bart": {"d_model": 256},
    "t5": {"d_model": 256, "d_kv": 64},
    "whisper": {"d_model": 256},
    "llama": {"hidden_size": 256, "head_dim": 64},
    "bert": {"hidden_size": 256},
}
PRECISIONS = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
}


@pytest.fixture(scope="module")
def masked(exported, tmp_path_factory):
    """Makes the masked graph of a tiny model in a precision: path, dims."""
    made = {}

    def get(name, role, precision="float32"):
        bundle = exported(name, **MODELS[name])[2].bundle
        key = (name, role, precision)
        if key not in made:
            graph = tiny_models.canonical_graph(bundle, role)
            cast(graph, PRECISIONS[precision])
            LengthToMask()(graph)
            ScaleQueries()(graph)
            made[key] = tmp_path_factory.mktemp(role) / "graph.onnx"
            ir.save(graph, made[key], external_data="weights.data")
        return made[key], bundle.manifest.dims

    return get


def cast(model, dtype):
    """Every float of the graph in that precision; good enough to build, not to compute."""
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    values += [output for node in model.graph for output in node.outputs]
    for value in values:
        if value.dtype == ir.DataType.FLOAT:
            value.type = ir.TensorType(dtype)
        tensor = value.const_value
        if tensor is not None and tensor.dtype == ir.DataType.FLOAT:
            value.const_value = ir.tensor(tensor.numpy().astype(dtype.numpy()), name=value.name)
    for node in model.graph:
        if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", int(dtype))


def build(path, profiles, **options):
    """An engine for one GPU generation, which builds faster than for all."""
    return build_engine(path, profiles, capabilities=("SM86",), **options)


def weighted_products(path):
    """MatMul and Gemm with a weight in the graph."""
    graph = onnx.load(path, load_external_data=False).graph
    return sum(node.op_type in ("MatMul", "Gemm") for node in graph.node)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["bart", "t5", "whisper", "llama"])
def test_a_decoder_is_fused_and_writes_its_cache_in_place(masked, name, precision):
    """Both profiles of one engine: attention kernels, cache updates and products by type.

    T5 does not scale its scores, which would make the library copy its keys.
    """
    path, dims = masked(name, "decoder", precision)
    report = build(path, DECODER, static={"capacity": CAPACITY}).report
    layers, cross = dims.decoder.layers, dims.encoder is not None
    prefill, step = report.profile(PREFILL), report.profile(STEP)
    assert prefill.cache_updates == step.cache_updates == 2 * layers
    assert prefill.cache_copies == step.cache_copies == 0
    fused = layers * (1 + cross)
    if precision != "float32":
        kind = {"float16": "Half x Half", "bfloat16": "BFloat16 x BFloat16"}[precision]
        assert prefill.fused_attentions == step.fused_attentions == fused
        assert prefill.products[kind] == step.products[kind] == weighted_products(path)
    else:  # a kernel for one query alone; cross-attention has the beams' queries
        assert (prefill.fused_attentions, step.fused_attentions) == (0, layers)
        assert step.products == Counter({"Float x Float": weighted_products(path)})
    assert {layer.profile for layer in report.layers} == {PREFILL, STEP}


@pytest.mark.parametrize(
    ("name", "precision", "lowered"),
    [
        ("bart", "float16", False),
        ("bart", "float16", True),
        ("bart", "float32", False),
        ("t5", "float16", False),
        ("llama", "float16", False),
    ],
)
def test_choosing_on_the_device_changes_nothing_else(masked, tmp_path, name, precision, lowered):
    """Two kernels more in each profile; attentions, caches and products as they were."""
    path, _ = masked(name, "decoder", precision)
    reports = []
    for k in (0, 16):
        model = ir.load(path)
        if precision == "float16":  # the cast of these tests made halves of the logits too
            widen_logits(model)
        if k:
            TopLogits(k)(model)
        if lowered:
            LowerToOpset18()(model)
        ir.save(model, tmp_path / f"{k}.onnx", external_data=f"{k}.data")
        found = build(tmp_path / f"{k}.onnx", DECODER, static={"capacity": CAPACITY})
        reports.append(found.report)
    for profile in (PREFILL, STEP):
        before, after = (report.profile(profile) for report in reports)
        counts = ("fused_attentions", "cache_updates", "cache_copies", "products")
        assert [getattr(before, c) for c in counts] == [getattr(after, c) for c in counts]
        assert len(after.layers) <= len(before.layers) + 2
        (top,) = (layer for layer in after.layers if "topk" in layer.name.lower())
        assert {"top_values", "top_ids"} <= {tensor.name for tensor in top.outputs}
    outputs = {binding.name: (binding.dtype, binding.shape) for binding in reports[1].outputs}
    assert outputs["log_sum_exp"] == ("Float", (-1,))
    assert outputs["top_values"] == ("Float", (-1, 16))
    assert outputs["top_ids"] == ("Int64", (-1, 16))


def widen_logits(model):
    """Logits in float32, as the graphs of a bundle give them in every precision."""
    half = model.graph.outputs[0]
    half.name = "half_logits"
    node = ir.node("Cast", [half], {"to": int(ir.DataType.FLOAT)}, name="widen")
    wide = node.outputs[0]
    wide.name, wide.shape, wide.type = "logits", half.shape, ir.TensorType(ir.DataType.FLOAT)
    model.graph.append(node)
    model.graph.outputs[0] = wide


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["bart", "t5", "whisper", "bert"])
def test_an_encoder_is_fused_in_half_precision(masked, name, precision):
    """The padding mask and T5's bias go into the kernel; float32 has none for many queries."""
    path, dims = masked(name, "encoder", precision)
    report = build(path, ENCODER).report
    assert report.fused_attentions == (dims.encoder.layers if precision != "float32" else 0)
    assert report.cache_updates == 0


def test_the_report_has_what_goes_in_and_out(masked):
    """Names, types, shapes and the range of each profile."""
    path, _ = masked("llama", "decoder")
    engine = build(path, DECODER, static={"capacity": CAPACITY})
    inputs = {binding.name: binding for binding in engine.report.inputs}
    assert inputs["input_ids"].profiles == (((1, 1), (2, 8), (4, 32)), ((1, 1), (8, 1), (16, 1)))
    assert inputs["past_key_0"].shape == (-1, 2, CAPACITY, 64)
    assert inputs["past_key_0"].dtype == "Float"
    assert [binding.name for binding in engine.report.outputs][:2] == ["logits", "present_key_0"]
    assert engine.library.startswith(("tensorrt_rtx 1.", "tensorrt "))
    assert len(engine.plan) > 100_000


def test_lengths_that_would_be_dropped_are_an_error(exported):
    """distilbert reads its lengths elsewhere too, so that the parser does not even warn."""
    _, folder, _ = exported("distilbert-embedding")
    with pytest.raises(EngineError, match="has lengths or a past of its own"):
        build(folder / "bundle" / "encoder.onnx", ENCODER)


def test_contrib_operators_are_an_error(exported):
    """The graphs for ONNX Runtime."""
    _, folder, _ = exported("distilbert-embedding")
    with pytest.raises(EngineError, match=r"com\.microsoft.*build from the canonical graph"):
        build(folder / "bundle" / "encoder.onnxruntime.onnx", ENCODER)


def test_a_cache_of_no_fixed_capacity_is_an_error(masked):
    """The parser's own words are kept."""
    path, _ = masked("llama", "decoder")
    sizes = {**DECODER[STEP].sizes, "capacity": (32, 64, 64)}
    with pytest.raises(EngineError, match="must have a static sequence length"):
        build(path, [Profile(name="step", sizes=sizes)])


def tiny_graph(tmp_path, *, opset=24, unused=False):
    """y = x + x, and perhaps an input that nothing reads."""
    value = onnx.helper.make_tensor_value_info
    inputs = [value("x", onnx.TensorProto.FLOAT, ["batch", 8])]
    if unused:
        inputs.append(value("idle", onnx.TensorProto.FLOAT, ["batch", 8]))
    node = onnx.helper.make_node("Add", ["x", "x"], ["y"], name="add")
    outputs = [value("y", onnx.TensorProto.FLOAT, ["batch", 8])]
    graph = onnx.helper.make_graph([node], "g", inputs, outputs)
    opsets = [onnx.helper.make_opsetid("", opset)]
    path = tmp_path / "tiny.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def test_an_input_that_is_dropped_is_an_error(tmp_path):
    """The parser warns and goes on."""
    with pytest.raises(EngineError, match="would drop a part of it: Unused Input: idle"):
        build(tiny_graph(tmp_path, unused=True), ENCODER)
    assert build(tiny_graph(tmp_path), ENCODER).plan, "the same graph without it"


@pytest.mark.parametrize(
    ("contents", "message"),
    [(b"no graph at all", "not a valid ONNX graph"), (b"", "has no outputs")],
)
def test_bytes_that_are_no_graph_are_an_error(tmp_path, contents, message):
    """The parser takes an empty file for an empty network."""
    path = tmp_path / "garbage.onnx"
    path.write_bytes(contents)
    with pytest.raises(EngineError, match=message):
        build(path, ENCODER)
    with pytest.raises(EngineError, match="cannot be read"):
        build(tmp_path / "nothing.onnx", ENCODER)


def test_an_unknown_opset_is_an_error(tmp_path):
    """The parser takes 99 for one that it knows."""
    with pytest.raises(EngineError, match="opset 99, supported up to 24"):
        build(tiny_graph(tmp_path, opset=99), ENCODER)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"batch": (4, 2, 1)}, "batch is 4, 2, 1; it needs 1 <= least"),
        ({"batch": (0, 1, 1)}, "batch is 0, 1, 1"),
        ({"bacth": BATCH}, "'bacth' is unknown, known: batch, rows"),
        ({"source": SOURCE}, "needs batch too"),
        ({"batch": (2, 2, 2), "rows": (2, 3, 4)}, "3 rows are no multiple of 2"),
        ({"batch": BATCH, "new": (1, 8, 65), "capacity": (64, 64, 64)}, "65 new tokens do not fit"),
    ],
)
def test_an_impossible_profile_is_an_error(tmp_path, sizes, message):
    """TensorRT takes some of these and fails at run time, or never."""
    with pytest.raises(OptionError, match=message):
        build(tiny_graph(tmp_path), [Profile(name="wrong", sizes=sizes)])


def test_options_that_contradict_each_other_are_errors(tmp_path):
    """No profile, a size given twice, a GPU generation that does not exist."""
    path = tiny_graph(tmp_path)
    with pytest.raises(OptionError, match="needs a profile with batch"):
        build(path, [])
    with pytest.raises(OptionError, match="batch is given as static too"):
        build(path, ENCODER, static={"batch": 2})
    with pytest.raises(OptionError, match=r"'SM1' is unknown, known: .*SM86"):
        build_engine(path, ENCODER, capabilities=("SM1",))


def test_a_missing_library_names_the_extra(monkeypatch):
    """Neither library installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BackendError, match=r"not installed; install seq2edge\[rtx\]"):
        import_tensorrt()


def test_a_library_that_does_not_load_is_named(monkeypatch):
    """Installed, but one of its own libraries is missing."""

    def broken(name):
        raise ImportError(f"libnvinfer.so of {name} is missing")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(BackendError, match=r"does not load here .*libnvinfer"):
        import_tensorrt()


def test_the_cast_of_these_tests_is_complete(masked):
    """No float32 weight is left in a float16 graph, else the counts above would mean nothing."""
    path, _ = masked("llama", "decoder", "float16")
    graph = ir.load(path).graph
    dtypes = {value.dtype for value in graph.initializers.values()}
    assert ir.DataType.FLOAT16 in dtypes
    assert ir.DataType.FLOAT not in dtypes
    assert (
        np.dtype(np.float16)
        == graph.initializers["model.embedding.weight"].const_value.numpy().dtype
    )
