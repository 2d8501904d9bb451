"""The two canonical graphs, traced from the model: opset 24, standard operators only."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from seq2edge.bundle.contract import (
    CROSS,
    PAST,
    Contract,
    Shape,
    alignment_shape,
    decoder_contract,
    encoder_contract,
)
from seq2edge.errors import ExportError
from seq2edge.model.dims import Dims
from seq2edge.model.layers import Kept
from seq2edge.model.operators import OPSET
from seq2edge.model.transformer import Heads, Transformer


class EncoderGraph(nn.Module):
    """Source in; cross-attention keys and values out, or the scores of an encoder-only model."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, source: Tensor, source_length: Tensor, more: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """See the graph contract in ARCHITECTURE.md; `more` is types of tokens, or lengths."""
        if self.model.dims.kind == "encoder":
            return (self.model.pool(source, source_length, more),)
        encoded = self.model.encode(source, source_length, sample_length=more)
        return tuple(t for pair in self.model.project_source(encoded) for t in pair)


class DecoderGraph(nn.Module):
    """Prefill and step in one graph; with `alignment`, what these heads attend to."""

    def __init__(self, model: Transformer, alignment: Heads = ()) -> None:
        super().__init__()
        self.model = model
        self.alignment = alignment

    def forward(
        self,
        input_ids: Tensor,
        new_length: Tensor,
        cache_length: Tensor,
        source_length: Tensor | None,
        cross: list[Tensor],
        past: list[Tensor],
    ) -> tuple[Tensor, ...]:
        """See the graph contract in ARCHITECTURE.md."""
        source = _pairs(cross)
        queries: list[Tensor] | None = [] if self.alignment else None
        hidden, present = self.model.decode(
            input_ids,
            source,
            source_length,
            start=cache_length,
            past=self._layers(past),
            queries=queries,
        )
        logits = self.model.last_logits(hidden, new_length)
        outputs = (logits, *(t for pair in present for t in pair))
        if queries is None or source_length is None:
            return outputs
        aligned = self.model.last_alignment(
            queries, source, source_length, new_length, self.alignment
        )
        return (*outputs, aligned)

    def _layers(self, past: list[Tensor]) -> list[Kept]:
        """What each layer keeps, of all tensors in the contract's order."""
        stack, tensors = self.model.decoder.dims, iter(past)
        kept = stack.caches(self.model.dims.width)
        return [tuple(itertools.islice(tensors, len(names))) for names in kept]


def alignment_heads(dims: Dims, known: Heads = ()) -> Heads:
    """The heads whose attention says which source a token comes from, pairs (layer, head).

    Those that the checkpoint knows. Else all of the last layer but one: in trained translation
    models that one aligns best (Garg et al. 2019); of speech all of the last half of the layers, as
    OpenAI's Whisper does. Raises ExportError where there are none.
    """
    if dims.kind != "encoder-decoder" or dims.decoder is None:
        raise ExportError(
            f"alignments: a model of kind {dims.kind} has no attention to a source; leave them out"
        )
    layers, heads = dims.decoder.layers, dims.decoder.heads
    for layer, head in known:
        if not (0 <= layer < layers and 0 <= head < heads):
            raise ExportError(
                f"alignments: alignment_heads names head {head} of layer {layer}, the decoder has "
                f"{layers} layers of {heads} heads"
            )
    aligning = range(layers // 2, layers) if dims.task == "transcribe" else [max(0, layers - 2)]
    return known or tuple((layer, head) for layer in aligning for head in range(heads))


def trace_encoder(model: Transformer) -> ir.Model:
    """`encoder.onnx` as a graph in memory; its weights are the model's own tensors."""
    contract = encoder_contract(model.dims)
    example = {"batch": 2, "source": 3}
    if model.dims.samples is not None:
        example["samples"] = model.dims.samples.length(3) + 1
    inputs = tuple(_example(name, shape, example) for name, shape in contract.inputs.items())
    shapes = tuple(_dynamic(shape) for shape in contract.inputs.values())
    return _trace(EncoderGraph(model), inputs, shapes, contract)


def trace_decoder(model: Transformer, alignment: Heads = ()) -> ir.Model:
    """`decoder.onnx` as a graph in memory; its weights are the model's own tensors."""
    shape = alignment_shape(model.dims, len(alignment)) if alignment else None
    contract = decoder_contract(model.dims, alignment=shape)
    # Sizes that differ pairwise, so that no two symbols are taken for one.
    example = {"batch": 2, "rows": 6, "source": 5, "new": 3, "capacity": 7}
    tensors = {n: _example(n, shape, example) for n, shape in contract.inputs.items()}
    dynamic = {n: _dynamic(shape) for n, shape in contract.inputs.items()}

    def arrange(values: dict[str, Any]) -> tuple[Any, ...]:
        cross = [value for name, value in values.items() if name.startswith(CROSS)]
        past = [value for name, value in values.items() if name.startswith(PAST)]
        first = (values[name] for name in ("input_ids", "new_length", "cache_length"))
        return (*first, values.get("source_length"), cross, past)

    return _trace(DecoderGraph(model, alignment), arrange(tensors), arrange(dynamic), contract)


def _pairs(tensors: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def _example(name: str, shape: Shape, sizes: dict[str, int]) -> Tensor:
    concrete = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in shape)
    if name.startswith((CROSS, PAST, "features", "samples", "pixels")):
        return torch.zeros(concrete)
    return torch.full(concrete, 2 if name.endswith("_length") else 1, dtype=torch.int64)


def _dynamic(shape: Shape) -> dict[int, Any]:
    return {
        i: torch.export.Dim.DYNAMIC if axis == "batch" and i > 0 else torch.export.Dim(axis)
        for i, axis in enumerate(shape)
        if isinstance(axis, str)
    }


def _trace(
    module: nn.Module, inputs: tuple[Any, ...], shapes: tuple[Any, ...], contract: Contract
) -> ir.Model:
    """The module as torch exports it, its inputs and outputs named by the contract."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                module.eval(),
                inputs,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=shapes,
                input_names=list(contract.inputs),
                output_names=list(contract.outputs),
                verbose=False,
                optimize=True,
            )
        except Exception as error:  # of torch, onnxscript or onnx-ir, by no common base
            cause = error.__cause__ or error
            said = " ".join(str(cause).split())[:300]
            raise ExportError(
                f"torch.onnx.export: {type(cause).__name__}: {said}; please report it with the "
                "checkpoint's config.json, and try the releases that the extra export names"
            ) from error
    assert program is not None
    model = program.model
    opset = model.opset_imports.get("", 0)
    if opset != OPSET:
        raise ExportError(f"torch.onnx.export: gave opset {opset}, asked for {OPSET}")
    _name_axes(model.graph, contract)
    return model


def _name_axes(graph: ir.Graph, contract: Contract) -> None:
    """Give every input and output the contract's name, shape and symbols, and check them."""
    symbols: dict[str, str] = {}  # the exporter has names of its own for some graphs
    for values, expected in ((graph.inputs, contract.inputs), (graph.outputs, contract.outputs)):
        if [value.name for value in values] != list(expected):
            names = ", ".join(str(value.name) for value in values)
            raise ExportError(f"torch.onnx.export: graph has {names}, needs {', '.join(expected)}")
        for value, shape in zip(values, expected.values(), strict=True):
            traced = value.shape if value.shape is not None else ()
            pairs = zip(traced, shape, strict=False)
            symbols |= {str(old): new for old, new in pairs if isinstance(new, str)}
            value.shape = ir.Shape(shape)
    ours = {*graph.inputs, *graph.outputs}
    for value in (output for node in graph for output in node.outputs):
        if value not in ours and value.name in (*contract.inputs, *contract.outputs):
            value.name = f"{value.name}.inner"  # the exporter calls an embedding lookup embedding
        if value not in ours and value.shape is not None:
            axes = (axis if isinstance(axis, int) else str(axis) for axis in value.shape)
            value.shape = ir.Shape(a if isinstance(a, int) else symbols.get(a, a) for a in axes)
