"""A bundle's graphs of each kind, made of the canonical ones and written over one weights file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge import __version__
from seq2edge.bundle import BundleWriter
from seq2edge.bundle.manifest import GraphFlavour, GraphRecord, Role, TensorRecord
from seq2edge.export.passes.fuse_cache_attention import FuseCacheAttention
from seq2edge.export.passes.last_positions import LastPositions
from seq2edge.export.passes.pad_heads import PadHeads
from seq2edge.export.passes.shortlist import Shortlist
from seq2edge.export.passes.top_logits import TopLogits
from seq2edge.export.weights import WEIGHTS, WeightsWriter, dtype_name
from seq2edge.model.dims import Dims

FILES: dict[GraphFlavour, str] = {"canonical": "{}.onnx", "onnxruntime": "{}.onnxruntime.onnx"}
TOP_LOGITS = 32  # of a row that a step gives apart: enough for beam search with ten beams
# The oldest release that runs the canonical graph, and the specialised one without and with a
# sliding window (which older kernels silently get wrong).
CANONICAL_RELEASE, SPECIALISED_RELEASE, WINDOW_RELEASE = "1.31", "1.23", "1.32"


def write_graphs(
    writer: BundleWriter,
    canonical: Mapping[Role, ir.Model],
    dims: Dims,
    *,
    ids: NDArray[np.int64] | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[GraphRecord, ...]:
    """Write the canonical graphs and those for ONNX Runtime; the manifest's records of them.

    With `ids`, sorted, the decoders compute the logits of those tokens alone. `progress` is told
    the bytes of each weight that was written.
    """
    special = {role: model.clone() for role, model in canonical.items()}
    for role, model in special.items():
        FuseCacheAttention(dims)(model)
        if role == "decoder":
            PadHeads()(model)
            LastPositions()(model)
    if ids is not None:
        shorten = Shortlist(ids)
        for models in (canonical, special):
            shorten(models["decoder"])
    if "decoder" in special:
        k = min(TOP_LOGITS, dims.vocab if ids is None else len(ids))
        TopLogits(k, log_softmax=True)(special["decoder"])
    kinds: dict[GraphFlavour, Mapping[Role, ir.Model]]
    kinds = {"canonical": canonical, "onnxruntime": special}
    weights = WeightsWriter(writer.path(WEIGHTS), progress)
    weights.write(model for models in kinds.values() for model in models.values())
    return tuple(
        _save(writer, role, target, model, dims)
        for target, models in kinds.items()
        for role, model in models.items()
    )


def _save(
    writer: BundleWriter, role: Role, target: GraphFlavour, model: ir.Model, dims: Dims
) -> GraphRecord:
    """Write one graph; what the manifest says of it."""
    name = FILES[target].format(role)
    model.producer_name, model.producer_version = "seq2edge", __version__
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
    ir.save(model, writer.path(name))
    stack = dims.decoder
    window = stack is not None and any(stack.layer_windows) and role == "decoder"
    release = WINDOW_RELEASE if window else SPECIALISED_RELEASE
    return GraphRecord(
        role=role,
        target=target,
        file=name,
        opset=dict(model.opset_imports),
        requires={"onnxruntime": CANONICAL_RELEASE if target == "canonical" else release},
        inputs=tuple(_tensor(value) for value in model.graph.inputs),
        outputs=tuple(_tensor(value) for value in model.graph.outputs),
    )


def _tensor(value: ir.Value) -> TensorRecord:
    assert value.shape is not None
    shape = tuple(axis if isinstance(axis, int) else str(axis.value) for axis in value.shape)
    return TensorRecord(name=str(value.name), dtype=dtype_name(value), shape=shape)
