"""The canonical graphs keep the contract."""

from __future__ import annotations

import re

import onnx
import onnx_ir as ir
import pytest
import tiny_models
import torch

from seq2edge.bundle.contract import Contract, decoder_contract, encoder_contract
from seq2edge.bundle.engine_info import LAST_POSITIONS, LINES, top_outputs
from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.errors import ExportError
from seq2edge.export.graphs import _name_axes, trace_decoder
from seq2edge.export.specialise import TOP_LOGITS

FAMILIES = ("t5", "bart", "marian-split", "whisper", "gpt2", "mistral", "qwen3", "bert")


def graphs(folder, kind=""):
    """The graphs of a bundle by role, without their weights."""
    paths = {role: folder / "bundle" / f"{role}{kind}.onnx" for role in ("encoder", "decoder")}
    return {r: onnx.load(p, load_external_data=False) for r, p in paths.items() if p.is_file()}


def shapes(values):
    """Names and axes as the file has them."""
    return {
        value.name: tuple(
            axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim
        )
        for value in values
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_canonical_graphs_are_standard_operators_of_opset_24(exported, name):
    """No domain but ONNX's own, and the checker finds nothing."""
    _, folder, _ = exported(name)
    for role, graph in graphs(folder).items():
        assert {(o.domain, o.version) for o in graph.opset_import} == {("", 24)}
        assert {node.domain for node in graph.graph.node} == {""}
        assert not graph.functions
        onnx.checker.check_model(str(folder / "bundle" / f"{role}.onnx"), full_check=True)


@pytest.mark.parametrize("name", FAMILIES)
def test_inputs_and_outputs_have_the_names_and_symbols_of_the_contract(exported, name):
    """One symbol a size, wherever it is meant, in both kinds of graphs."""
    _, folder, _ = exported(name)
    model = load_checkpoint(folder / "checkpoint").model
    contracts = {"encoder": encoder_contract, "decoder": decoder_contract}
    for kind in ("", ".onnxruntime"):
        found = graphs(folder, kind)
        assert set(found) == {s for s in contracts if getattr(model.dims, s) is not None}
        for role, graph in found.items():
            wanted = contracts[role](model.dims)
            inputs, outputs = dict(wanted.inputs), dict(wanted.outputs)
            if (role, kind) == ("decoder", ".onnxruntime"):  # beside what is said of all backends
                inputs |= {LAST_POSITIONS: (1,)}
                inputs, outputs = padded(inputs), padded(outputs)
                outputs |= {top.name: top.shape for top in top_outputs(TOP_LOGITS)}
                answers = ("logits", *(top.name for top in top_outputs(TOP_LOGITS)))
                outputs |= {answer: (LINES, *outputs[answer][1:]) for answer in answers}
            assert shapes(graph.graph.input) == inputs
            assert shapes(graph.graph.output) == outputs


def padded(tensors: dict) -> dict:
    """Shapes with the heads of caches padded to a multiple of 8."""
    caches = {n: s for n, s in tensors.items() if n.startswith(("past_", "present_"))}
    return tensors | {n: (*shape[:3], -(-shape[3] // 8) * 8) for n, shape in caches.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_sizes_inside_have_the_symbols_of_the_contract(exported, name):
    """The exporter's own names for sizes are not left on any value of the canonical graphs."""
    _, folder, _ = exported(name)
    for graph in graphs(folder).values():
        symbols = {axis for shape in shapes(graph.graph.value_info).values() for axis in shape}
        words = {word for axis in symbols for word in re.findall(r"[a-z]\w*", str(axis))}
        assert words <= {"batch", "rows", "source", "new", "capacity"}
        assert words


def test_the_contract_itself_is_what_is_documented(exported):
    """The names that other tools rely on, written out once."""
    _, folder, _ = exported("bart")
    graph = graphs(folder)["decoder"].graph
    cache, cross = ("rows", 4, "capacity", 8), ("batch", 4, "source", 8)
    names = ("key_0", "value_0", "key_1", "value_1")
    assert shapes(graph.input) == {
        "input_ids": ("rows", "new"),
        "new_length": ("rows",),
        "cache_length": ("rows",),
        "source_length": ("batch",),
        **{f"cross_{name}": cross for name in names},
        **{f"past_{name}": cache for name in names},
    }
    assert shapes(graph.output) == {
        "logits": ("rows", tiny_models.VOCAB),
        **{f"present_{name}": cache for name in names},
    }


@pytest.mark.parametrize("name", ["t5", "bart", "whisper"])
def test_cross_attention_is_projected_by_the_encoder_alone(exported, name):
    """The decoder has the products of its own tokens and no more."""
    model, folder, _ = exported(name)
    decoder = graphs(folder)["decoder"].graph
    products = [n for n in decoder.node if n.op_type in ("MatMul", "Gemm")]
    layers = load_checkpoint(folder / "checkpoint").dims.decoder.layers
    # a layer: merged q/k/v, output; cross query, cross output; two feed-forward; then the LM head
    assert len(products) == 6 * layers + 1
    assert model.config.is_encoder_decoder


def test_every_cache_is_written_in_place_by_the_standard_operator(exported):
    """One TensorScatter for the keys and one for the values of a layer, straight to the output."""
    _, folder, _ = exported("llama")
    graph = graphs(folder)["decoder"].graph
    scatters = [n for n in graph.node if n.op_type == "TensorScatter"]
    assert {(n.input[0], n.output[0]) for n in scatters} == {
        (f"past_{part}_{i}", f"present_{part}_{i}") for i in range(2) for part in ("key", "value")
    }


def test_a_graph_with_other_outputs_is_refused(exported):
    """An exporter that renames or reorders is noticed."""
    _, folder, _ = exported("gpt2")
    graph = ir.load(folder / "bundle" / "decoder.onnx").graph
    inputs = {str(v.name): ("rows",) for v in graph.inputs}
    with pytest.raises(ExportError, match="needs logits, surprise"):
        _name_axes(graph, Contract(inputs=inputs, outputs={"logits": (), "surprise": ()}))


def test_what_the_exporter_raises_is_an_error_of_ours(exported, monkeypatch):
    """With its cause in one line."""

    def failing(*_, **__):
        try:
            raise ValueError("no rule\nfor aten::x")
        except ValueError as error:
            raise RuntimeError("export failed") from error

    model = load_checkpoint(exported("gpt2")[1] / "checkpoint").model
    monkeypatch.setattr(torch.onnx, "export", failing)
    with pytest.raises(ExportError, match=r"ValueError: no rule for aten::x; please report it"):
        trace_decoder(model)
