"""Engines of lowered graphs: what TensorRT-RTX makes of the form that older releases need."""

from __future__ import annotations

import importlib.util

import onnx_ir as ir
import pytest
import tiny_models

from seq2edge.export.passes.length_to_mask import LengthToMask
from seq2edge.export.passes.lower_to_opset18 import LowerToOpset18
from seq2edge.export.tensorrt.engine import Profile, build_engine, decoder_profiles
from seq2edge.quantize.passes.half_precision import HalfPrecisionWeights, ToHalfPrecision

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
    "llama": {"hidden_size": 256, "head_dim": 64},  # grouped queries
    "gpt2": {"n_embd": 256},
    "bert": {"hidden_size": 256},
}


@pytest.fixture
def graph(exported, tmp_path):
    """Makes a graph of a tiny model: path, dims."""

    def get(name, role, dtype=ir.DataType.FLOAT16, *, lower=True, **changes):
        bundle = exported(name, **changes)[2].bundle
        model = tiny_models.canonical_graph(bundle, role)
        LengthToMask()(model)
        if dtype != ir.DataType.FLOAT:
            ToHalfPrecision(HalfPrecisionWeights(dtype))(model)
        if lower:
            LowerToOpset18()(model)
        path = tmp_path / "graph.onnx"
        ir.save(model, path, external_data="weights.data")
        return path, bundle.manifest.dims

    return get


def build(path, role):
    """The report of an engine for one GPU generation, which builds faster than for all."""
    profiles, static = {"encoder": (ENCODER, None), "decoder": (DECODER, {"capacity": CAPACITY})}[
        role
    ]
    return build_engine(path, profiles, static=static, capabilities=("SM86",)).report


# Of samples no engines are built.
BUILT = [name for name in (*tiny_models.ALL, *tiny_models.FOREIGN) if name != "moonshine"]


@pytest.mark.parametrize("name", BUILT)
def test_every_family_builds_in_float16(exported, name, tmp_path):
    """Whatever its graphs; heads of 8 have no fused kernel, so that nothing else is counted."""
    for path in (exported(name)[1] / "bundle").glob("*coder.onnx"):
        model = ir.load(path)
        LengthToMask()(model)
        ToHalfPrecision(HalfPrecisionWeights(ir.DataType.FLOAT16))(model)
        LowerToOpset18()(model)
        ir.save(model, tmp_path / path.name, external_data=f"{path.stem}.data")
        assert set(build(tmp_path / path.name, path.stem).products) == {"Half x Half"}


@pytest.mark.parametrize("name", [name for name in MODELS if name != "bert"])
def test_every_attention_of_a_decoder_is_fused_in_float16(graph, name):
    """In both profiles, grouped queries and folded beams too."""
    path, dims = graph(name, "decoder", **MODELS[name])
    report = build(path, "decoder")
    fused = dims.decoder.layers * (1 + (dims.encoder is not None))
    for profile in (PREFILL, STEP):
        assert report.profile(profile).fused_attentions == fused


@pytest.mark.parametrize("name", ["bart", "t5", "whisper", "bert"])
def test_every_attention_of_an_encoder_is_fused_in_float16(graph, name):
    """With padding masks and T5's bias."""
    path, dims = graph(name, "encoder", **MODELS[name])
    assert build(path, "encoder").fused_attentions == dims.encoder.layers


@pytest.mark.parametrize(
    ("name", "lower", "copied"),
    [
        ("llama", True, 2),
        ("bart", True, 2),
        ("llama", False, 0),
        ("bart", False, 0),
        ("t5", False, 1),
    ],
)
def test_a_lowered_cache_is_copied_before_it_is_written(graph, name, lower, copied):
    """The price of `ScatterND`, keys and values; `TensorScatter` has it for T5's keys alone."""
    path, dims = graph(name, "decoder", lower=lower, **MODELS[name])
    report = build(path, "decoder")
    for profile in (PREFILL, STEP):
        assert report.profile(profile).cache_copies == copied * dims.decoder.layers


@pytest.mark.parametrize("name", ["t5", "llama"])
@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT, ir.DataType.BFLOAT16])
def test_other_floats_build_too(graph, name, dtype):
    """Root mean squares are float32 in between, in whichever type the graph is."""
    products = {ir.DataType.FLOAT: "Float x Float", ir.DataType.BFLOAT16: "BFloat16 x BFloat16"}
    report = build(graph(name, "decoder", dtype, **MODELS[name])[0], "decoder")
    assert set(report.products) == {products[dtype]}
