"""A quantized bundle: every family, measured, verifiable; the source is never touched."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import onnx_ir as ir
import pytest
import tiny_models
from bundle_folders import tree
from speaking import sentences

import seq2edge
import seq2edge.quantize
from seq2edge.bundle import Bundle
from seq2edge.errors import BundleError, ExportError, OptionError
from seq2edge.evaluation.examples import Example
from seq2edge.export.pipeline import export_checkpoint
from seq2edge.quantize import onnxruntime_graphs, quantizer
from seq2edge.quantize.passes import block_weights
from seq2edge.quantize.passes.block_weights import QuantizedWeights, table_sizes
from seq2edge.quantize.passes.weight_uses import find_weight_uses
from seq2edge.quantize.pipeline import QuantizeOptions, quantize_bundle
from seq2edge.quantize.recipes import RECIPES, find_recipe
from seq2edge.runtime.backend import all_logits
from seq2edge.runtime.backends.verification import verify_graphs

# Largest error of a logit relative to the largest logit: sharp random attention amplifies it, so
# that the arithmetic itself is checked in test_block_weights.
CLOSE = {"int8-weight": 0.8, "int4-weight": 1.5}


@pytest.mark.parametrize("name", [*tiny_models.ALL, *tiny_models.FOREIGN])
def test_every_family_is_quantized_whole(exported, tmp_path, name):
    """No product keeps its float weights; answers stay close; the result verifies and runs."""
    source = exported(name)[1] / "bundle"
    before = tree(source)
    report = quantize_bundle(source, tmp_path / "small", "int8-weight")
    assert tree(source) == before
    assert report.kept == ()
    assert 0 < report.parity.max_relative < CLOSE["int8-weight"]
    assert report.parity.tokens_equal >= 0.6 * report.parity.tokens_compared
    bundle = Bundle.open(tmp_path / "small", hashes=True)
    assert bundle.manifest.precision == "int8-weight"
    for graph in bundle.manifest.graphs:
        nodes = ir.load(bundle.file(graph.file)).graph
        float_products = [
            node.name
            for node in nodes
            if node.op_type in ("MatMul", "Gemm") and node.inputs[1].is_initializer()
        ]
        assert float_products == []
        assert any(node.op_type == "MatMulNBits" for node in nodes)
    assert all(outcome.passed for _, outcome in verify_graphs(bundle, device="cpu"))
    model = seq2edge.load(bundle.path, device="cpu", threads=1)
    if model.bundle.manifest.task == "generate":
        options = model.options.replace(max_new_tokens=4, max_length=None, num_beams=2)
        assert model.generate_ids([[5, 6, 7], [8]], options)[1][0].ids


@pytest.mark.parametrize("name", ["bart", "llama", "bert"])
def test_fewer_bits_err_more(exported, tmp_path, name):
    """Four bits are measurably worse than eight, and within reason."""
    source = exported(name)[1] / "bundle"
    errors = {
        recipe: quantize_bundle(source, tmp_path / recipe, recipe).parity.max_relative
        for recipe in CLOSE
    }
    assert errors["int8-weight"] < errors["int4-weight"] < CLOSE["int4-weight"]


@pytest.mark.parametrize("recipe", ["int8-dynamic", "int8-static"])
@pytest.mark.parametrize("name", ["bart", "t5", "llama", "bert"])
def test_every_product_computes_in_integers(speaking, tmp_path, name, recipe):
    """One integer operator for each product of the float graphs; nothing is dequantized."""
    source = Bundle.open(speaking(name))
    examples = sentences(30) if recipe == "int8-static" else ()
    report = quantize_bundle(source.path, tmp_path / "small", recipe, calibration=examples)
    operator = {"int8-dynamic": "DynamicQuantizeMatMul", "int8-static": "MatMulIntegerToFloat"}
    tables = table_sizes(source.manifest.dims)
    for role in {graph.role for graph in source.manifest.graphs}:
        graphs = [
            ir.load(b.file(b.graph(role, "onnxruntime").file)).graph
            for b in (source, report.bundle)
        ]
        products = [s for s in find_weight_uses(graphs[0], tables) if s.kind != "table"]
        found = [node.op_type for node in graphs[1]]
        assert found.count(operator[recipe]) == len(products) > 0
        assert "DequantizeLinear" not in found
        assert not [use for use in find_weight_uses(graphs[1], tables) if use.kind != "table"]
    assert report.kept == ()
    assert report.parity.max_relative < CLOSE["int8-weight"]
    assert all(outcome.passed for _, outcome in verify_graphs(report.bundle, device="cpu"))


def test_it_is_a_quarter_of_the_size(tmp_path):
    """A tied table, read by encoder, decoder and head, is stored once."""
    tiny_models.save("bart", tmp_path / "checkpoint", vocab_size=3000, d_model=128)
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "float", original=False)
    report = quantize_bundle(tmp_path / "float", tmp_path / "small", "int8-weight")
    weights = [path / "weights.data" for path in (tmp_path / "float", report.bundle.path)]
    sizes = [path.stat().st_size for path in weights]
    assert sizes[1] < 0.33 * sizes[0]  # position tables and norms stay float


def test_the_record_tells_what_was_done(exported, tmp_path):
    """Recipe, every weight, the float bundle's own hash; engines and canonical graphs are gone."""
    source = exported("bart")[1] / "bundle"
    manifest = quantize_bundle(source, tmp_path / "small", "int4-weight").bundle.manifest
    record = manifest.quantization
    assert record.recipe == RECIPES["int4-weight"].summary
    assert record.weights["decoder: model.embedding.weight"] == "int8, blocks of 32"
    assert "int4, blocks of 32" in record.weights.values()
    raw = (source / "manifest.json").read_bytes()
    assert record.source_sha256 == hashlib.sha256(raw).hexdigest()
    assert {graph.target for graph in manifest.graphs} == {"onnxruntime"}
    assert manifest.provenance == Bundle.open(source).manifest.provenance


def test_verification_notices_a_processor_that_computes_otherwise(exported, tmp_path):
    """Errors well above those recorded when the bundle was made."""
    source = exported("gpt2")[1] / "bundle"
    bundle = quantize_bundle(source, tmp_path / "small", "int8-weight").bundle
    manifest = bundle.manifest
    smaller = dataclasses.replace(manifest.parity, max_absolute=manifest.parity.max_absolute / 3)
    claimed = Bundle(path=bundle.path, manifest=dataclasses.replace(manifest, parity=smaller))
    ((_, outcome),) = verify_graphs(claimed, device="cpu")
    assert not outcome.passed
    assert "DIFFERENT" in outcome.summary


def test_what_cannot_be_quantized_is_refused(exported, tmp_path):
    """By name, with nothing written."""
    source = exported("gpt2")[1] / "bundle"
    with pytest.raises(
        OptionError,
        match="recipe: 'int3' is unknown, known: int8-weight, int4",
    ):
        quantize_bundle(source, tmp_path / "x", "int3")
    with pytest.raises(BundleError, match="no such folder"):
        quantize_bundle(tmp_path / "none", tmp_path / "x", "int8-weight")
    with pytest.raises(BundleError, match="not a bundle"):
        quantize_bundle(exported("gpt2")[1] / "checkpoint", tmp_path / "x", "int8-weight")
    with pytest.raises(BundleError, match="exists"):
        quantize_bundle(source, source, "int8-weight")
    quantize_bundle(source, tmp_path / "small", "int8-weight")
    with pytest.raises(BundleError, match=r"quantized already \(int8-weight\)"):
        quantize_bundle(tmp_path / "small", tmp_path / "x", "int4-weight")
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_a_bundle_without_recorded_answers_is_refused(tmp_path, make_bundle, make_manifest):
    """There would be nothing to prove the result with."""
    manifest = make_manifest(precision="float32", quantization=None)
    foreign = make_bundle(tmp_path / "foreign", manifest)
    with pytest.raises(BundleError, match=r"no reference\.npz, export the checkpoint again"):
        quantize_bundle(foreign.path, tmp_path / "x", "int8-weight")


def test_nan_is_not_written(exported, tmp_path, monkeypatch):
    """Whatever went wrong in a weight."""
    original = QuantizedWeights._quantize

    def broken(self, use, block_format):
        blocked = original(self, use, block_format)
        return dataclasses.replace(blocked, scales=np.full_like(blocked.scales, np.nan))

    monkeypatch.setattr(QuantizedWeights, "_quantize", broken)
    with pytest.raises(ExportError, match="int8-weight graphs answer NaN or infinity"):
        quantize_bundle(exported("gpt2")[1] / "bundle", tmp_path / "x", "int8-weight")
    assert list(tmp_path.iterdir()) == []


def test_progress_runs_forward(exported, tmp_path):
    """From nothing to everything."""
    parts = []
    quantize_bundle(
        exported("gpt2")[1] / "bundle",
        tmp_path / "x",
        "int8-weight",
        progress=lambda _, part: parts.append(part),
    )
    assert parts == sorted(parts)
    assert (parts[0], parts[-1]) == (0.0, 1.0)


def test_recipes_are_found_by_name():
    """The registry's names are the precisions of the manifest."""
    assert find_recipe("int8-weight").layers.bits == 8


@pytest.mark.parametrize("name", ["bart", "gpt2", "bert"])
def test_examples_make_four_bits_better(speaking, tmp_path, name):
    """On the examples themselves the calibrated weights answer closer to the float model."""
    source = speaking(name, **({"num_hidden_layers": 3} if name == "bert" else {}))
    examples = sentences(60)
    plain = quantize_bundle(source, tmp_path / "plain", "int4-weight").bundle
    report = quantize_bundle(source, tmp_path / "calibrated", "int4-weight", calibration=examples)
    record = report.bundle.manifest.quantization
    assert (record.method, record.examples) == ("GPTQ", 60)
    assert plain.manifest.quantization.method == "round to nearest"
    wanted = list(answers(Bundle.open(source), examples))
    errors = [
        np.mean([np.square(a - b).mean() for a, b in zip(wanted, found, strict=True)])
        for found in (list(answers(bundle, examples)) for bundle in (report.bundle, plain))
    ]
    assert errors[0] < errors[1]


def answers(bundle, examples):
    """Numbers that the model answers each text with: its scores, or logits after its reading."""
    model = seq2edge.load(bundle.path, device="cpu", threads=1)
    for example in examples:
        ids = model.tokenizer.encode(example.input)
        if model.dims.decoder is None:
            yield model.classify_ids([ids])
            continue
        memory = None
        if model.dims.encoder is not None:
            memory = model.backend.encode(np.array([ids]), np.array([len(ids)]))
        cache = model.backend.start(memory, 1, None)
        yield all_logits(model.backend.step(np.array([ids]), np.array([len(ids)]), cache)).copy()


def test_examples_for_a_recipe_without_calibration_are_refused(exported, tmp_path):
    """Rather than left unused."""
    source = exported("gpt2")[1] / "bundle"
    with pytest.raises(OptionError, match="int8-weight for onnxruntime uses none"):
        quantize_bundle(source, tmp_path / "x", "int8-weight", calibration=[Example(input="w5")])


def test_queries_keys_and_values_keep_eight_bits(exported, tmp_path):
    """In self-attention and in cross-attention, whose keys leave the encoder."""
    source = exported("bart")[1] / "bundle"
    bundle = quantize_bundle(source, tmp_path / "small", "int4-weight").bundle
    forms = list(bundle.manifest.quantization.weights.values())
    # Two layers a side: queries, keys and values merged in each; the decoder's cross queries; the
    # encoder's merged keys and values for them.
    layers = 2 + 2 + 2 + 2
    tables = sum("embedding" in name for name in bundle.manifest.quantization.weights)
    assert forms.count("int8, blocks of 32") == layers + tables


@pytest.mark.parametrize("name", ["bart", "bert"])
def test_graphs_are_read_once_where_that_is_enough(exported, tmp_path, monkeypatch, name):
    """And so are their weights: without examples there is nothing to know beforehand."""
    calls = {"read": 0, "find": 0}
    load, find = onnxruntime_graphs.ir.load, block_weights.find_weight_uses

    def counted_load(path):
        calls["read"] += 1
        return load(path)

    def counted_find(*arguments):
        calls["find"] += 1
        return find(*arguments)

    monkeypatch.setattr(onnxruntime_graphs.ir, "load", counted_load)
    monkeypatch.setattr(block_weights, "find_weight_uses", counted_find)
    monkeypatch.setattr(quantizer, "find_weight_uses", counted_find)
    bundle = quantize_bundle(exported(name)[1] / "bundle", tmp_path / "x", "int8-weight").bundle
    graphs = len(bundle.manifest.graphs)
    assert calls == {"read": graphs, "find": graphs}


def test_python_users_get_the_verdict(speaking, tmp_path):
    """What the command writes as JSON: the bundle, figures of both, and a sentence."""
    source = speaking("bart")
    examples = sentences(20)
    options = QuantizeOptions(recipe="int8-static", threads=1)
    stages = []
    result = seq2edge.quantize.run(
        source,
        tmp_path / "small",
        options,
        calibration=examples,
        evaluation=examples,
        progress=lambda stage, part: stages.append((part, stage)),
    )
    assert result.report.bundle.manifest.precision == "int8-static"
    assert result.verdict.compared == 20
    assert result.verdict.quantized.bytes == Bundle.open(tmp_path / "small", hashes=True).size
    assert result.verdict.sentence.startswith("int8-static ")
    assert (result.search, result.page) == (None, None)
    values = result.values()
    assert values["bundle"] == str(tmp_path / "small")
    assert values["sentence"] == result.verdict.sentence
    assert values["quantized"]["rates"] == result.verdict.quantized.rates
    parts = [part for part, _ in stages]
    assert parts == sorted(parts)
    assert stages[-1] == (1.0, "judge")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"recipe": "auto"}, "budget: auto needs one, such as"),
        (
            {"recipe": "auto", "budget": "wer+1", "target": "tensorrt"},
            "target: auto measures speed",
        ),
        ({"recipe": "fp16", "budget": "wer+1"}, "budget: is for the recipe auto, fp16 has none"),
        ({"recipe": "fp16", "report": "x.html"}, "report: is for the recipe auto"),
        ({"recipe": "fp16", "metric": "rouge"}, "metric: 'rouge' is unknown, known"),
    ],
)
def test_options_that_would_not_be_heeded_are_refused(values, message):
    """Before anything is read."""
    with pytest.raises(OptionError, match=message):
        QuantizeOptions(**values)


def test_a_metric_needs_examples(exported, tmp_path):
    """Random input has no reference."""
    options = QuantizeOptions(recipe="int8-weight", metric="wer")
    with pytest.raises(OptionError, match="metric: is measured on examples for evaluation"):
        seq2edge.quantize.run(exported("gpt2")[1] / "bundle", tmp_path / "x", options)
    assert list(tmp_path.iterdir()) == []
