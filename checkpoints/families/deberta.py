"""DeBERTa (He et al. 2021), v2 and v3 too: attention of contents to relative positions and back.

What a layer makes of the table of relative positions depends on no text, so a checkpoint's table
and the products over it become one table of keys and one of queries for each layer.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import torch.nn.functional as F
from torch import Tensor

from seq2edge.checkpoints.families.bert import (
    BERT_LAYOUT,
    Layout,
    bert_dims,
    bert_family,
    bert_weights,
    prefix_of,
)
from seq2edge.checkpoints.families.family import Config, Names, WeightMapping
from seq2edge.checkpoints.families.parallel import by_kind
from seq2edge.errors import UnsupportedError
from seq2edge.model.dims import Dims, StackDims

KINDS = {"c2p", "p2c"}  # contents to positions, positions to contents


def _dims(layout: Layout, config: Config, names: Names) -> Dims:
    """The sizes that a config.json says; what is not one of the published forms is refused."""
    dims = bert_dims(layout, config, names)
    stack = dims.encoder
    assert stack is not None
    kinds = config.get("pos_att_type") or ()
    if isinstance(kinds, str):
        kinds = kinds.lower().split("|")
    if {kind.strip() for kind in kinds} != KINDS:
        raise UnsupportedError(
            f"config.json: pos_att_type {config.get('pos_att_type')!r} is not supported, "
            "only 'c2p|p2c'"
        )
    if not config.get("relative_attention", False):
        raise UnsupportedError("config.json: relative_attention False is not supported")
    config.require("conv_kernel_size", 0)
    config.require("attention_head_size", stack.head_dim)
    config.require("embedding_size", dims.width)
    config.require("pooler_hidden_size", dims.width)
    config.require("norm_rel_ebd", "none", "layer_norm")
    config.ignore("share_att_key")  # the names of the tensors say it
    config.ignore("legacy", "cls_dropout", "pooler_dropout")
    farthest, buckets = config.get("max_relative_positions", -1), config.get("position_buckets", -1)
    farthest = farthest if farthest > 0 else config.size("max_position_embeddings", 512)
    absolute = bool(config.get("position_biased_input", True))
    stack = dataclasses.replace(
        stack,
        norm_epsilon=float(config.get("layer_norm_eps", 1e-7)),
        positions="learned" if absolute else "relative",
        max_positions=stack.max_positions if absolute else 0,
        relative_span=buckets if buckets > 0 else farthest,
        relative_distance=farthest if buckets > 0 else 0,
        attention_scale=((1 + len(KINDS)) * stack.head_dim) ** -0.5,
    )
    activation = config.get("pooler_hidden_act", "gelu")
    if activation != "tanh":
        activation = config.activation("pooler_hidden_act", "gelu")
    if dims.head != "classifier":
        return dataclasses.replace(dims, encoder=stack)
    return dataclasses.replace(dims, encoder=stack, classifier_activation=activation)


def _first_dims(layout: Layout, config: Config, names: Names) -> Dims:
    """The first version has a row for every distance and does not normalise its table."""
    config.require("talking_head", False)
    config.require("position_buckets")
    config.require("norm_rel_ebd", "none")
    return _dims(layout, config, names)


def _weights(layout: Layout, dims: Dims, names: Names) -> Iterator[WeightMapping]:
    """BERT's parameters, and two tables of relative positions for every layer."""
    yield from bert_weights(layout, dims, names)
    stack, encoder = dims.encoder, f"{prefix_of(layout, names)}encoder"
    assert stack is not None
    table = [f"{encoder}.rel_embeddings.weight"]
    if f"{encoder}.LayerNorm.weight" in names:
        table += [f"{encoder}.LayerNorm.weight", f"{encoder}.LayerNorm.bias"]
    for i in range(stack.layers):
        attention = f"{encoder}.layer.{i}.attention.self"
        own = f"{attention}.pos_key_proj.weight" in names
        for part in ("key", "query"):
            product = f"{attention}.pos_{part}_proj" if own else f"{attention}.{part}_proj"
            yield WeightMapping(
                target=f"encoder.layers.{i}.attention.position_{part}",
                sources=(table[0], f"{product}.weight", f"{product}.bias", *table[1:]),
                combine=_table_maker(stack),
            )


def _first_weights(layout: Layout, dims: Dims, names: Names) -> Iterator[WeightMapping]:
    """The same of the first version, which packs queries, keys and values head by head."""
    stack, encoder = dims.encoder, f"{prefix_of(layout, names)}encoder"
    assert stack is not None
    for weight in bert_weights(layout, dims, names):
        name = str(weight.sources[0])
        if name.endswith("in_proj.weight"):
            yield dataclasses.replace(weight, transform=functools.partial(by_kind, stack))
        elif name.endswith("in_proj.bias"):
            attention = name.removesuffix("in_proj.bias")
            biases = (f"{attention}q_bias", None, f"{attention}v_bias")
            yield dataclasses.replace(weight, sources=biases)
        else:
            yield weight
    for i in range(stack.layers):
        attention = f"{encoder}.layer.{i}.attention.self"
        products = {
            "key": (f"{attention}.pos_proj.weight",),
            "query": (f"{attention}.pos_q_proj.weight", f"{attention}.pos_q_proj.bias"),
        }
        for part, product in products.items():
            yield WeightMapping(
                target=f"encoder.layers.{i}.attention.position_{part}",
                sources=(f"{encoder}.rel_embeddings.weight", *product),
                combine=_table_maker(stack),
            )


def _table_maker(stack: StackDims) -> Callable[..., Tensor]:
    def make(
        table: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> Tensor:
        """The product over the normalised table, (heads, 2 * span, head_dim)."""
        if scale is not None:
            table = F.layer_norm(table, table.shape[-1:], scale, shift, stack.norm_epsilon)
        rows = F.linear(table, weight, bias)  # (2 * span, heads * head_dim)
        return rows.view(-1, stack.heads, stack.head_dim).transpose(0, 1)

    return make


_LAYOUT = dataclasses.replace(
    BERT_LAYOUT,
    prefix="deberta.",
    qkv=("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"),
    heads=dataclasses.replace(
        BERT_LAYOUT.heads, classifier=("pooler.dense", "classifier"), classifier_activation="gelu"
    ),
)
_FIRST_LAYOUT = dataclasses.replace(_LAYOUT, qkv=("attention.self.in_proj",))
DEBERTA = dataclasses.replace(
    bert_family("deberta", "Deberta", _FIRST_LAYOUT, _first_dims),
    weights=functools.partial(_first_weights, _FIRST_LAYOUT),
)
_FAMILY = bert_family("deberta-v2", "DebertaV2", _LAYOUT, _dims)
DEBERTA_V2 = dataclasses.replace(
    _FAMILY,
    weights=functools.partial(_weights, _LAYOUT),
    # A table that v3's files have and no model reads.
    unused=(*_FAMILY.unused, r"(.*\.)?embeddings\.position_embeddings\.weight"),
)
