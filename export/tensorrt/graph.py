"""The graph that an engine is built of, with what TensorRT would silently get wrong refused.

Its parser reads bytes that are no graph as an empty one and any opset as one that it knows. It
takes an `Attention` without its lengths, with a warning only if nothing else reads them, and takes
the size of quantized blocks from the number of scales, so that a short last block shifts them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from seq2edge.errors import EngineError

NEWEST_OPSET = 24  # the newest whose operators were tried
ATTENTION_INPUTS = 4  # query, key, value, mask: what the parser reads of them

Axes = tuple[int | str, ...]


def read_graph(graph: Path, static: Mapping[str, int]) -> onnx.ModelProto:
    """The graph without its weights, its `static` symbols replaced by their sizes.

    Raises EngineError for a file that is no graph, or one that TensorRT would read as another.
    """
    try:
        model = onnx.load(graph, load_external_data=False)
        if not model.graph.output:
            raise EngineError(f"{graph}: has no outputs, so it is no graph to build an engine of")
        _check_opsets(graph, model)
        onnx.checker.check_model(graph)
    except OSError as error:
        raise EngineError(f"{graph}: cannot be read ({error})") from error
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise EngineError(f"{graph}: not a valid ONNX graph ({error})") from error
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        _check_attention(graph, node)
        _check_blocks(graph, node, sizes)
    for value in (*model.graph.input, *model.graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in static:
                axis.dim_value = static[axis.dim_param]
    return model


def shapes(values: Sequence[onnx.ValueInfoProto]) -> Iterator[tuple[str, Axes]]:
    """Names and axes as the graph has them."""
    for value in values:
        axes = value.type.tensor_type.shape.dim
        yield (
            value.name,
            tuple(a.dim_value if a.HasField("dim_value") else a.dim_param for a in axes),
        )


def _check_opsets(graph: Path, model: onnx.ModelProto) -> None:
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx"):
            raise EngineError(
                f"{graph}: uses operators of {opset.domain}, TensorRT reads standard ones; "
                "build from the canonical graph"
            )
        if opset.version > NEWEST_OPSET:
            raise EngineError(f"{graph}: opset {opset.version}, supported up to {NEWEST_OPSET}")


def _check_attention(graph: Path, node: onnx.NodeProto) -> None:
    if node.op_type == "Attention" and any(node.input[ATTENTION_INPUTS:]):
        raise EngineError(
            f"{graph}: {node.name} has lengths or a past of its own, which TensorRT drops; "
            "turn them into masks first"
        )


def _check_blocks(graph: Path, node: onnx.NodeProto, sizes: Mapping[str, tuple[int, ...]]) -> None:
    attributes = {a.name: a.i for a in node.attribute}
    block = attributes.get("block_size", 0)
    if node.op_type != "DequantizeLinear" or not block or node.input[0] not in sizes:
        return
    size = sizes[node.input[0]][attributes.get("axis", 1)]
    if size % block:
        raise EngineError(
            f"{graph}: {node.name} has {size} values in blocks of {block}; TensorRT would take "
            "other blocks, since the last is short"
        )
