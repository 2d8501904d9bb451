"""Graphs for TensorRT: what would overflow is found, kept float32 and recorded."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
from speaking import loud_t5, sentences, speaking_bundle

import seq2edge
from seq2edge.bundle import Bundle
from seq2edge.errors import BundleError, ExportError, OptionError
from seq2edge.quantize.calibration import Calibration
from seq2edge.quantize.emulation import emulate_bundle
from seq2edge.quantize.onnxruntime_graphs import read_graphs
from seq2edge.quantize.passes.block_weights import QuantizedWeights
from seq2edge.quantize.passes.half_precision import HalfPrecisionWeights, ToHalfPrecision
from seq2edge.quantize.pipeline import quantize_bundle
from seq2edge.quantize.ranges import InputStats
from seq2edge.quantize.recipes import RECIPES
from seq2edge.quantize.tensorrt_graphs import _exceeds, find_largest, quantize_graphs
from seq2edge.runtime.backend import all_logits
from seq2edge.runtime.backends.verification import verify_graphs

FLOAT16, BFLOAT16 = ir.DataType.FLOAT16, ir.DataType.BFLOAT16
LARGEST = 65504.0  # of float16


@pytest.fixture
def loud(speaking):
    """The bundle of a T5 whose last feed-forwards exceed float16."""
    return speaking("t5", seed=1, d_model=64, edit=loud_t5)


@pytest.fixture(scope="module")
def speaking(speaking):
    """Small bundles with a tokenizer of words, by name."""
    return lambda *name, **options: Bundle.open(speaking(*name, **options))


def for_tensorrt(source, folder, recipe, **options):
    """The report of that recipe; the emulated bundle is in `folder / "twin"`."""
    return quantize_bundle(
        source.path,
        folder / "small",
        recipe,
        target="tensorrt",
        threads=1,
        emulation=folder / "twin",
        **options,
    )


def tokens(path, examples):
    """What a bundle's canonical graphs write after each example."""
    model = seq2edge.load(path, device="cpu", threads=1, graphs="canonical")
    ids = [model.tokenizer.encode(example.input) for example in examples]
    options = model.options.replace(num_beams=1, max_new_tokens=8, max_length=None)
    return [sequences[0].ids for sequences in model.generate_ids(ids, options)]


def first_logits(path, ids=(5, 6, 7, 2)):
    """What a bundle's canonical graphs answer to a source."""
    model = seq2edge.load(path, device="cpu", threads=1, graphs="canonical")
    memory = model.backend.encode(np.array([ids]), np.array([len(ids)]))
    cache = model.backend.start(memory, 1, None)
    return all_logits(model.backend.step(np.array([[0]]), np.array([1]), cache)).copy()


@pytest.mark.parametrize(("dtype", "finite"), [(FLOAT16, False), (BFLOAT16, True)])
def test_plain_float16_overflows_where_bfloat16_does_not(loud, tmp_path, dtype, finite):
    """The model is one that float16 alone turns into no numbers."""
    assert np.isfinite(first_logits(loud.path)).all()
    models, weights = {}, HalfPrecisionWeights(dtype)
    for role in ("encoder", "decoder"):
        models[role] = ir.load(loud.file(loud.graph(role, "canonical").file))
        ToHalfPrecision(weights)(models[role])
    twin = emulate_bundle(tmp_path / "twin", loud, models)
    assert np.isfinite(first_logits(twin.path)).all() == finite


def test_float16_with_islands_writes_the_same_tokens(loud, tmp_path):
    """They are found from the examples alone, kept float32, and recorded with their ranges."""
    examples = sentences()
    report = for_tensorrt(loud, tmp_path, "fp16", calibration=examples)
    wide = report.bundle.manifest.quantization.float32_values
    # In each graph: the last hidden values, before and after the activation, the feed-forward's
    # result, and its sum with the residual stream.
    assert [name.partition(":")[0] for name in wide] == ["encoder"] * 4 + ["decoder"] * 4
    assert all(LARGEST / 4 < size < np.inf for size in wide.values())
    assert sum(size > LARGEST for size in wide.values()) == 4
    wanted = tokens(loud.path, examples)
    assert tokens(tmp_path / "twin", examples) == wanted
    assert len(set(wanted)) > 5, "one answer to all would prove little"
    assert report.parity.tokens_equal == report.parity.tokens_compared
    assert 0 < report.parity.max_relative < 0.002


def test_the_islands_are_as_small_as_can_be(loud, tmp_path):
    """Four nodes of a graph and the norm that follows compute in float32; all others are narrow."""
    bundle = for_tensorrt(loud, tmp_path, "fp16", calibration=sentences()).bundle
    for role, layers in (("encoder", 3), ("decoder", 2)):
        graph = ir.load(bundle.file(bundle.graph(role, "tensorrt").file)).graph
        products = [node for node in graph if node.op_type in ("MatMul", "Gemm")]
        norms = [node for node in graph if node.op_type == "RMSNormalization"]
        wide = [n for n in (*products, *norms) if n.outputs[0].dtype == ir.DataType.FLOAT]
        assert [node.op_type for node in wide] == ["MatMul", "MatMul", "RMSNormalization"]
        assert len(products) > 3 * layers
        attentions = [node for node in graph if node.op_type == "Attention"]
        assert {node.outputs[0].dtype for node in attentions} == {FLOAT16}


@pytest.mark.parametrize("recipe", ["int8-weight", "int8-static", "int4-weight"])
def test_integer_weights_have_the_same_islands(loud, tmp_path, recipe):
    """With float16 around them they overflow in the same places."""
    report = for_tensorrt(loud, tmp_path, recipe, calibration=sentences())
    assert len(report.bundle.manifest.quantization.float32_values) == 8
    assert np.isfinite(first_logits(tmp_path / "twin")).all()
    assert report.parity.max_relative < 0.3


def test_an_island_reaches_through_the_split_of_heads(tmp_path):
    """Queries beyond float16, keys as much smaller: the scores are ordinary."""

    def edit(model):
        for layer in model.bert.encoder.layer:
            attention = layer.attention.self
            for part, factor in ((attention.query, 3e4), (attention.key, 1 / 3e4)):
                part.weight *= factor
                part.bias *= factor

    source = Bundle.open(speaking_bundle(tmp_path, "bert", edit=edit))
    report = for_tensorrt(source, tmp_path, "fp16", calibration=sentences())
    assert max(report.bundle.manifest.quantization.float32_values.values()) > LARGEST
    assert report.parity.max_relative < 0.02


def test_an_island_reaches_through_scaled_queries(tmp_path):
    """T5's self-attention reads a quarter of its queries, in float32 where they exceed float16."""

    def edit(model):
        for block in model.decoder.block:
            block.layer[0].SelfAttention.q.weight *= 3e4
            block.layer[0].SelfAttention.k.weight /= 3e3

    source = Bundle.open(speaking_bundle(tmp_path, "t5", edit=edit))
    bundle = for_tensorrt(source, tmp_path, "fp16", calibration=sentences()).bundle
    graph = ir.load(bundle.file(bundle.graph("decoder", "tensorrt").file)).graph
    own = [n for n in graph if n.op_type == "Attention" and n.attributes["scale"].as_float() == 4]
    assert len(own) == source.manifest.dims.decoder.layers
    assert {node.inputs[0].dtype for node in own} == {ir.DataType.FLOAT}


def test_bfloat16_needs_no_examples(loud, tmp_path):
    """And takes none, since nothing overflows; no island is made."""
    with pytest.raises(OptionError, match="calibration: bf16 for tensorrt uses none"):
        for_tensorrt(loud, tmp_path, "bf16", calibration=sentences())
    record = for_tensorrt(loud, tmp_path, "bf16").bundle.manifest.quantization
    assert record.float32_values == {}
    assert record.examples == 0
    assert set(record.weights.values()) == {"bfloat16"}
    assert np.isfinite(first_logits(tmp_path / "twin")).all()


@pytest.mark.parametrize("recipe", ["fp16", "int8-weight", "int8-static", "int4-weight"])
def test_float16_without_examples_is_refused(loud, tmp_path, recipe):
    """Nobody would have looked where it overflows."""
    with pytest.raises(OptionError, match=f"{recipe} for tensorrt needs examples, they show how"):
        for_tensorrt(loud, tmp_path, recipe)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_beyond_float16_is_refused(tmp_path):
    """With the way out, though queries as much smaller make the scores ordinary."""

    def edit(model):
        for block in model.decoder.block:
            block.layer[0].SelfAttention.k.weight *= 3e4
            block.layer[0].SelfAttention.q.weight /= 3e4

    source = Bundle.open(speaking_bundle(tmp_path, "t5", edit=edit))
    with pytest.raises(ExportError, match=r"present_key_0 comes near the limits.*use bf16"):
        for_tensorrt(source, tmp_path, "fp16", calibration=sentences())
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(
    ("size", "exceeds"),
    [(16376.0, False), (16377.0, True), (np.inf, False), (0.0, False), (6e-5, True), (7e-5, False)],
)
def test_values_near_the_ends_of_float16_exceed_it(size, exceeds):
    """A quarter of its largest number, or less than its least normal; masks of infinity are not."""
    assert _exceeds(size, FLOAT16) == exceeds
    assert not _exceeds(size, BFLOAT16)


def test_the_largest_values_are_those_of_the_model(speaking):
    """Of all examples, under the names of the canonical graph, masks among them."""
    bundle = speaking("gpt2")
    calibration = Calibration(bundle, sentences(), threads=1)
    graph = ir.load(bundle.file(bundle.graph("decoder", "canonical").file))
    parts = []
    largest = find_largest(calibration, {"decoder": graph}, parts.append)
    model = seq2edge.load(bundle.path, device="cpu", threads=1, graphs="canonical")
    found = 0.0
    for trace in calibration.traces:
        cache = model.backend.start(None, 1, None)
        length = np.array([len(trace.tokens)])
        found = max(
            found,
            np.abs(all_logits(model.backend.step(np.array([trace.tokens]), length, cache))).max(),
        )
    assert largest["decoder", "logits"] == pytest.approx(found, rel=1e-5)
    floats = {v.name for n in graph.graph for v in n.outputs if v.dtype == ir.DataType.FLOAT}
    assert {name for _, name in largest} == floats
    assert parts == sorted(parts)
    assert parts[-1] == 1


def test_the_manifest_has_the_types_of_the_engine(speaking, tmp_path):
    """Caches are float16, what people read is float32; the graphs wait for an engine."""
    bundle = for_tensorrt(speaking("gpt2"), tmp_path, "fp16", calibration=sentences()).bundle
    (graph,) = bundle.manifest.graphs
    assert (graph.target, graph.requires) == ("tensorrt", {"tensorrt": "10.15"})
    dtypes = {put.name: put.dtype for put in (*graph.inputs, *graph.outputs)}
    assert dtypes["past_key_0"] == dtypes["present_value_1"] == "float16"
    assert dtypes["logits"] == "float32"
    assert dtypes["input_ids"] == "int64"
    ((target, outcome),) = verify_graphs(bundle, device="cpu")
    assert target == "tensorrt"
    assert "an engine has to be built" in outcome.summary


def test_calibrated_weights_reach_the_graph(speaking, tmp_path):
    """What GPTQ found for the other graphs of the bundle; 8-bit weights are rounded as ever."""
    source = speaking("bart")
    examples = sentences()
    bundle = for_tensorrt(source, tmp_path, "int4-weight", calibration=examples).bundle
    assert bundle.manifest.quantization.method == "GPTQ"
    recipe = RECIPES["int4-weight"]
    plain = QuantizedWeights(source.manifest.dims, recipe.formats)
    calibration = Calibration(source, examples, threads=1)
    models = read_graphs(source, "canonical")
    rounded = quantize_graphs(models, plain, recipe, InputStats(), calibration)
    changed = []
    for role, model in rounded.models.items():
        found = ir.load(bundle.file(bundle.graph(role, "tensorrt").file)).graph.initializers
        for name, value in model.graph.initializers.items():
            if name.endswith(".codes"):
                same = np.array_equal(value.const_value.numpy(), found[name].const_value.numpy())
                assert same == (value.dtype == ir.DataType.INT8), name
                changed.append(same)
    assert {True, False} == set(changed)


def test_a_bundle_without_canonical_graphs_is_refused(speaking):
    """Those for onnxruntime have operators that TensorRT does not know."""
    bundle = speaking("gpt2")
    graphs = tuple(g for g in bundle.manifest.graphs if g.target == "onnxruntime")
    bare = Bundle(path=bundle.path, manifest=dataclasses.replace(bundle.manifest, graphs=graphs))
    with pytest.raises(BundleError, match="has no canonical graphs, export the checkpoint again"):
        read_graphs(bare, "canonical")
