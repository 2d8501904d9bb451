"""What the pass leaves in the graphs; that they compute the same is shown by every export."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir
import pytest
import tiny_models

from seq2edge.errors import ExportError
from seq2edge.export.passes.fuse_cache_attention import FuseCacheAttention


@pytest.fixture
def traced(exported):
    """The canonical graph of a tiny model: (dims, graph)."""

    def get(name, role):
        bundle = exported(name)[2].bundle
        return bundle.manifest.dims, tiny_models.canonical_graph(bundle, role)

    return get


@pytest.mark.parametrize("name", ["t5", "marian", "whisper", "gpt2", "mistral", "qwen3", "gemma3"])
def test_every_attention_of_a_decoder_is_replaced(traced, name):
    """One operator for the cached attention of a layer, one for its cross-attention."""
    dims, graph = traced(name, "decoder")
    FuseCacheAttention(dims)(graph)
    count = Counter(node.op_type for node in graph.graph)
    layers, cross = dims.decoder.layers, dims.kind == "encoder-decoder"
    assert count["GroupQueryAttention"] == layers
    assert count["MultiHeadAttention"] == (layers if cross else 0)
    assert count["Attention"] == count["TensorScatter"] == 0
    assert graph.opset_imports[""] <= 23
    windows = {
        n.inputs[3].name: n.attributes.get_int("local_window_size", 0)
        for n in graph.graph
        if n.op_type == "GroupQueryAttention"
    }
    assert windows == {f"past_key_{i}": w for i, w in enumerate(dims.decoder.layer_windows)}
    ir.to_proto(graph)


@pytest.mark.parametrize("name", ["bart", "gpt2", "llama"])
def test_no_head_is_transposed_in_a_step(traced, name):
    """The operators take merged heads; grouped heads with rotations keep none either."""
    dims, graph = traced(name, "decoder")
    FuseCacheAttention(dims)(graph)
    assert not [node for node in graph.graph if node.op_type == "Transpose"]


@pytest.mark.parametrize("name", ["t5", "bart", "whisper", "bert", "modernbert", "eurobert"])
def test_every_attention_of_an_encoder_is_replaced(traced, name):
    """The lengths become its padding mask; its windows are a bias, shared heads are repeated.

    Clips are equally long: they need no mask, and without one the kernel is another.
    """
    dims, graph = traced(name, "encoder")
    FuseCacheAttention(dims)(graph)
    count = Counter(node.op_type for node in graph.graph)
    assert count["MultiHeadAttention"] == dims.encoder.layers
    assert count["Attention"] == 0
    fused = [node for node in graph.graph if node.op_type == "MultiHeadAttention"]
    masks = [node.inputs[4] if len(node.inputs) > 4 else None for node in fused]
    assert all((mask is None) == (name == "whisper") for mask in masks)


def test_only_the_capacity_is_shortened_for_a_bias(traced):
    """A size that the exporter took from a cache's rows stays what it is."""
    dims, graph = traced("t5", "decoder")
    past = next(v for v in graph.graph.inputs if v.name == "past_key_0")
    shapes = {}
    for axis, name in ((0, "rows"), (2, "capacity")):
        node = ir.node("Shape", [past], {"start": axis, "end": axis + 1}, name=name)
        node.outputs[0].name = name
        keep = ir.node("Identity", [node.outputs[0]], name=f"keep_{name}")
        keep.outputs[0].name = f"keep_{name}"
        graph.graph.extend([node, keep])
        graph.graph.outputs.append(keep.outputs[0])
        shapes[name] = keep
    FuseCacheAttention(dims)(graph)
    assert shapes["rows"].inputs[0].name == "rows"
    assert shapes["capacity"].inputs[0].name == "lengths_longest"


def attention_alone(**extra):
    """A graph with an attention that stands between nothing the pass knows."""
    inputs = [
        ir.Value(name=n, shape=ir.Shape([1, 2, 3, 4]), type=ir.TensorType(ir.DataType.FLOAT))
        for n in ("q", "k", "v")
    ]
    node = ir.node("Attention", inputs, {"scale": 1.0}, name="lonely")
    node.outputs[0].name = "y"
    graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"": 24}, **extra)
    return ir.Model(graph, ir_version=10)


def test_an_unknown_form_is_an_error(traced):
    """An attention that the pass cannot place is never left behind in silence."""
    dims, _ = traced("gpt2", "decoder")
    with pytest.raises(ExportError, match="lonely is not between head transposes"):
        FuseCacheAttention(dims)(attention_alone())


def test_a_cache_written_by_something_else_is_an_error(traced):
    """Keys that do not come from this call's projection."""
    dims, graph = traced("gpt2", "decoder")
    scatter = next(n for n in graph.graph if n.op_type == "TensorScatter")
    shape = scatter.inputs[1].shape
    value = ir.Value(name="other", shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    graph.graph.inputs.append(value)
    scatter.replace_input_with(1, value)
    with pytest.raises(ExportError, match="writes an unknown cache"):
        FuseCacheAttention(dims)(graph)


def test_attention_without_cache_or_lengths_is_an_error(traced):
    """Nothing says which keys are padding."""
    dims, graph = traced("bart", "encoder")
    node = next(n for n in graph.graph if n.op_type == "Attention")
    node.resize_inputs(3)
    with pytest.raises(ExportError, match="neither cache nor lengths"):
        FuseCacheAttention(dims)(graph)
