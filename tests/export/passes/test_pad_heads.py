"""Heads whose size is no multiple of 8; that tokens are right is shown by the tiny models."""

from __future__ import annotations

import onnx_ir as ir
import pytest

import seq2edge
from seq2edge.bundle import Bundle
from seq2edge.errors import ExportError
from seq2edge.export.passes.pad_heads import PadHeads


def graph_of(bundle: Bundle, target: str) -> ir.Graph:
    """The decoder's graph."""
    return ir.load(bundle.file(bundle.graph("decoder", target).file)).graph


@pytest.mark.parametrize(("name", "size", "padded"), [("t5-untied", 12, 16), ("qwen3", 12, 16)])
def test_caches_are_as_wide_as_the_kernel_needs(exported, name, size, padded):
    """In the specialised graph alone; the runtime makes its caches by the graph."""
    bundle = exported(name)[2].bundle
    widths = {}
    for target in ("canonical", "onnxruntime"):
        graph = graph_of(bundle, target)
        values = [v for v in (*graph.inputs, *graph.outputs) if v.name.startswith(("past", "pres"))]
        (widths[target],) = {value.shape[3] for value in values}
    assert widths == {"canonical": size, "onnxruntime": padded}
    backend = seq2edge.load(bundle.path, device="cpu", threads=1).backend
    assert backend.make_caches(1, 4).tensors()["key_0"].shape[3] == padded


def test_other_graphs_stay_as_they_are(exported):
    """No node more where heads are of 8."""
    model = ir.load(graph_file(exported("bart")[2].bundle))
    before = [node.op_type for node in model.graph]
    assert not PadHeads()(model).modified
    assert [node.op_type for node in model.graph] == before


def graph_file(bundle: Bundle) -> str:
    """Where the specialised decoder is."""
    return str(bundle.file(bundle.graph("decoder", "onnxruntime").file))


def test_heads_of_an_unknown_size_are_refused(exported):
    """They cannot be padded."""
    model = ir.load(graph_file(exported("bart")[2].bundle))
    for value in model.graph.inputs:
        if value.name.startswith("past_"):
            value.shape = ir.Shape(["rows", 4, "capacity", "size"])
    with pytest.raises(ExportError, match=r"pad_heads: .* has heads of an unknown size"):
        PadHeads()(model)
