"""Specialise attention for ONNX Runtime: contrib operators, opset 23 or lower.

The standard `Attention` kernel of the CPU provider costs by capacity instead of by valid length,
and opset 24 exists only in the newest releases. So:

1. `TensorScatter` of keys and of values into the cache plus causal `Attention` become
   `GroupQueryAttention`, which writes the same cache in place; head transposes disappear.
2. `Attention` over a source with lengths becomes `MultiHeadAttention` with the lengths as its
   padding mask and T5's bias, or a window's, as its attention bias. In an encoder of clips or
   images, which are all equally long, there is no padding: without a mask the kernel does not write
   all scores down. (Decoders read them out of caches with room behind them.) That operator has no
   grouped heads: keys and values are repeated for it. Nor does it bound its scores: a `softcap`
   becomes the products and functions that it stands for (`lower_to_opset18.py`).
3. Where keys carry an additive bias it is computed for the valid tokens, not for the capacity.
4. What else `TensorScatter` writes, a recurrence's states, `ScatterND` writes, in place as well.

Requires the canonical graph; ensures that no opset-24 operator is left. Equality with the
canonical graph is what the parity gate of every export checks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from seq2edge.bundle.contract import PAST
from seq2edge.errors import ExportError
from seq2edge.export.passes.editing import (
    CONTRIB,
    Axis,
    Writer,
    known_axes,
    single_consumer,
    trace_back,
)
from seq2edge.export.passes.length_to_mask import Visibility, give_mask
from seq2edge.export.passes.lower_to_opset18 import lower_attention, lower_cache_write
from seq2edge.model.dims import Dims

CACHE_RANK, CAPACITY_AXIS = 4, 2
OPSET_23 = ("RMSNormalization", "RotaryEmbedding")


class FuseCacheAttention(ir.passes.InPlacePass):
    """See the module's rules."""

    def __init__(self, dims: Dims) -> None:
        stack = dims.decoder
        # What of an encoder reads sources that are all equally long.
        self.unpadded = dims.source_name if dims.source_positions else None
        self.windows = {
            f"{PAST}key_{layer}": window
            for layer, window in enumerate(stack.layer_windows if stack is not None else ())
        }

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every attention; an unknown form is an error, never left behind."""
        graph = model.graph
        lengths = _Lengths(graph)
        padded = self.unpadded not in [value.name for value in graph.inputs]
        masks: dict[Visibility, ir.Value] = {}
        shared: dict[Hashable, ir.Value] = {}
        for node in [node for node in graph if node.op_type == "Attention"]:
            attention = _read(node)
            if attention.scatters is not None:
                _fuse_cached(graph, attention, lengths, self.windows)
            elif attention.length is None:
                raise ExportError(
                    f"fuse_cache_attention: {node.name} has neither cache nor lengths"
                )
            elif attention.cap:
                give_mask(graph, node, masks)
                lower_attention(Writer(graph, node, prefix=str(node.name), shared=shared), node)
            else:
                _fuse_source(graph, attention, lengths, padded=padded)
        RemoveUnusedNodesPass()(model)
        for node in [node for node in graph if node.op_type == "TensorScatter"]:
            lower_cache_write(Writer(graph, node, prefix=str(node.name), shared=shared), node)
        lengths.shorten_bias()
        RemoveUnusedNodesPass()(model)
        graph.sort()
        left = {node.op_type for node in graph} & {"Attention", "TensorScatter"}
        if left:
            raise ExportError(f"fuse_cache_attention: {', '.join(sorted(left))} left in the graph")
        newest = any(node.op_type in OPSET_23 for node in graph)
        model.opset_imports[""] = 23 if newest else 21
        model.opset_imports[CONTRIB] = 1
        model.ir_version = 10
        for node in graph:
            node.version = None
        return ir.passes.PassResult(model, modified=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Attention:
    """One attention with the head transposes around it."""

    node: ir.Node
    query: ir.Value  # (batch, new, heads * head_dim)
    heads: int
    merge: ir.Node  # the last node of the pattern
    scatters: tuple[ir.Node, ir.Node] | None
    mask: ir.Value | None
    length: ir.Value | None
    scale: float
    cap: float


def _read(node: ir.Node) -> _Attention:
    """What stands around an attention; an unknown form is an error."""
    inputs = [*node.inputs, *[None] * (7 - len(node.inputs))]
    query = trace_back(inputs[0], "Transpose", "Reshape")
    transpose = single_consumer(node.outputs[0], "Transpose")
    merge = single_consumer(transpose.outputs[0], "Reshape") if transpose is not None else None
    shape = inputs[0].shape if inputs[0] is not None else None
    if query is None or merge is None or shape is None:
        raise ExportError(f"fuse_cache_attention: {node.name} is not between head transposes")
    scatters = tuple(v.producer() for v in inputs[1:3] if v is not None)
    cached = all(s is not None and s.op_type == "TensorScatter" for s in scatters)
    return _Attention(
        node=node,
        query=query,
        heads=int(shape[1]),  # type: ignore[arg-type]
        merge=merge,
        scatters=scatters if cached else None,  # type: ignore[arg-type]
        mask=inputs[3],
        length=inputs[6],
        scale=node.attributes["scale"].as_float(),
        cap=node.attributes.get_float("softcap", 0.0),
    )


class _Lengths:
    """Values derived from the graph's length inputs, made once."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.inputs = {value.name: value for value in graph.inputs}
        self._writer = Writer(graph, None, prefix="lengths")
        self._made: dict[str, ir.Value] = {}

    def _add(
        self,
        key: str,
        operator: str,
        inputs: Sequence[ir.Value],
        axes: Sequence[Axis],
        dtype: ir.DataType = ir.DataType.INT64,
        **attributes: int,
    ) -> ir.Value:
        if key not in self._made:
            value = self._writer.add(operator, inputs, axes, dtype, **attributes)
            value.name = f"lengths_{key}"
            self._made[key] = value
        return self._made[key]

    def _int32(self, key: str, value: ir.Value) -> ir.Value:
        return self._add(
            key, "Cast", [value], known_axes(value), ir.DataType.INT32, to=ir.DataType.INT32
        )

    def cast(self, name: str) -> ir.Value:
        """A length input as int32, (batch,)."""
        return self._int32(f"{name}_int32", self.inputs[name])

    def valid(self) -> ir.Value:
        """Tokens that each row's cache holds after this call, int64 (rows,)."""
        new, old = self.inputs["new_length"], self.inputs["cache_length"]
        return self._add("valid", "Add", [old, new], known_axes(old))

    def longest(self) -> ir.Value:
        """The most tokens that any row's cache holds, int64 (1,)."""
        inputs = [self.valid(), self._writer.integers(0)]
        return self._add("longest", "ReduceMax", inputs, (1,), keepdims=1)

    def last(self) -> ir.Value:
        """Position of each row's last token, int32 (rows,): what the operator calls seqlens_k."""
        inputs = [self.valid(), self._writer.integers(1)]
        last = self._add("last", "Sub", inputs, known_axes(self.valid()))
        return self._int32("last_int32", last)

    def total(self) -> ir.Value:
        """`longest` as int32 (1,)."""
        return self._int32("total", self.longest())

    def shorten_bias(self) -> None:
        """Key positions run to the longest row, not to the capacity (rule 3)."""
        for node in list(self.graph):
            source = node.inputs[0] if node.op_type == "Shape" else None
            if source is None or not str(source.name).startswith(PAST):
                continue
            axes = slice(
                node.attributes.get_int("start", 0), node.attributes.get_int("end", CACHE_RANK)
            )
            if range(CACHE_RANK)[axes] == range(CAPACITY_AXIS, CAPACITY_AXIS + 1):
                node.outputs[0].replace_all_uses_with(self.longest())


def _fuse_cached(
    graph: ir.Graph, attention: _Attention, lengths: _Lengths, windows: Mapping[str, int]
) -> None:
    """Rule 1: one node reads the product, writes the cache and attends to it."""
    assert attention.scatters is not None
    key, value = (trace_back(s.inputs[1], "Transpose", "Reshape") for s in attention.scatters)
    caches = [scatter.inputs[0] for scatter in attention.scatters]
    if key is None or value is None or caches[0] is None or caches[0].shape is None:
        raise ExportError(f"fuse_cache_attention: {attention.node.name} writes an unknown cache")
    mask = attention.mask
    biased = mask is not None and mask.dtype != ir.DataType.BOOL
    attributes: dict[str, int | float] = {
        "num_heads": attention.heads,
        "kv_num_heads": int(caches[0].shape[1]),  # type: ignore[arg-type]
        "scale": attention.scale,
    }
    if attention.cap:
        attributes["softcap"] = attention.cap
    if windows[str(caches[0].name)]:
        attributes["local_window_size"] = windows[str(caches[0].name)]
    inputs = [*_merged(attention.query, key, value), *caches, lengths.last(), lengths.total()]
    node = ir.node(
        "GroupQueryAttention",
        [*inputs, None, None, None, mask] if biased else inputs,
        attributes,
        domain=CONTRIB,
        num_outputs=3,
        name=attention.node.name,
    )
    presents = [scatter.outputs[0] for scatter in attention.scatters]
    outputs = [attention.merge.outputs[0], *presents]
    ir.convenience.replace_nodes_and_values(
        graph, attention.merge, [], [node], outputs, node.outputs
    )


def _merged(
    query: ir.Value, key: ir.Value, value: ir.Value
) -> tuple[ir.Value, ir.Value | None, ir.Value | None]:
    """The merged product itself where nothing happens between it and the attention."""
    split = query.producer()
    if (
        split is not None
        and split.op_type == "Split"
        and list(split.outputs) == [query, key, value]
    ):
        merged = split.inputs[0]
        assert merged is not None
        return merged, None, None
    return query, key, value


def _fuse_source(
    graph: ir.Graph, attention: _Attention, lengths: _Lengths, *, padded: bool
) -> None:
    """Rule 2: the lengths become the operator's padding mask, where there is padding."""
    key, value = attention.node.inputs[1], attention.node.inputs[2]
    flat = [trace_back(x, "Transpose", "Reshape") for x in (key, value)]
    if _heads(key) != attention.heads:
        key, value = (_repeated(graph, attention, x) for x in (key, value))
    elif flat[0] is not None and flat[1] is not None:
        key, value = flat  # the encoder's own keys; a decoder's cross keys stay as they are
    assert attention.length is not None
    node = ir.node(
        "MultiHeadAttention",
        [
            attention.query,
            key,
            value,
            None,
            lengths.cast(str(attention.length.name)) if padded else None,
            attention.mask,
        ],
        {"num_heads": attention.heads, "scale": attention.scale},
        domain=CONTRIB,
        name=attention.node.name,
    )
    outputs = [attention.merge.outputs[0]]
    ir.convenience.replace_nodes_and_values(
        graph, attention.merge, [], [node], outputs, node.outputs
    )


def _heads(key: ir.Value | None) -> int:
    assert key is not None
    heads = known_axes(key)[1]
    assert isinstance(heads, int)
    return heads


def _repeated(graph: ir.Graph, attention: _Attention, x: ir.Value | None) -> ir.Value:
    """Keys or values (batch, kv_heads, source, head_dim), each head for each that shares it."""
    assert x is not None
    batch, _, source, head_dim = known_axes(x)
    writer = Writer(graph, attention.node, prefix=f"{attention.node.name}/{x.name}")
    places = [head * _heads(x) // attention.heads for head in range(attention.heads)]
    axes = (batch, attention.heads, source, head_dim)
    return writer.add("Gather", [x, writer.integers(*places)], axes, axis=1)
