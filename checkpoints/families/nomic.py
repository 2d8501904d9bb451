"""NomicBERT and GTE: BERT with rotary positions and gated feed-forwards.

Sources: Nussbaum et al. 2024, Zhang et al. 2024.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from seq2edge.checkpoints.families.family import (
    Config,
    Family,
    Names,
    WeightMapping,
    encoder_task,
    linear,
    norm,
)
from seq2edge.checkpoints.families.heads import Heads, head_dims, head_weights
from seq2edge.checkpoints.families.rotary import read_rotary
from seq2edge.model.dims import Dims, StackDims


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where one member keeps its parts; `up` are the gate and what is gated, or both in one."""

    prefix: str
    embedding_norm: str
    layer: str
    qkv: str
    out: str
    attention_norm: str
    up: tuple[str, ...]
    down: str
    feedforward_norm: str
    heads: Heads


def _dims(
    layout: Layout,
    config: Config,
    names: Names,
    *,
    theta: float,
    activation: str,
    biases: bool,
) -> Dims:
    """The sizes that a config.json says; `theta` and `activation` are for one that says none."""
    config.ignore("tie_word_embeddings", "pooling", "normalize", "num_labels")
    width, heads = config.size("hidden_size"), config.size("num_attention_heads")
    head_dim = config.size("head_dim", width // heads)
    stack = StackDims(
        layers=config.size("num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        hidden=config.size("intermediate_size"),
        activation=config.activation("hidden_act", activation),
        gated=True,
        norm_epsilon=float(config.get("layer_norm_eps", 1e-12)),
        pre_norm=False,
        final_norm=False,
        embedding_norm=True,
        attention_scale=head_dim**-0.5,
        qkv_bias=biases,
        attention_bias=biases,
        feedforward_bias=biases,
        **read_rotary(config, head_dim=head_dim, theta=theta),
    )
    head = head_dims(layout.heads, config, encoder_task(config), activation=stack.activation)
    types = config.size("type_vocab_size", 1)
    typed = any("token_type_embeddings.weight" in name for name in names)
    return Dims(
        width=width,
        vocab=config.size("vocab_size"),
        encoder=stack,
        token_types=types if typed else 0,
        **{"tied": False, **head},
    )


def _weights(layout: Layout, dims: Dims, names: Names) -> Iterator[WeightMapping]:
    """Every parameter that these dims have, and the tensors it is made of."""
    prefix = layout.prefix if any(name.startswith(layout.prefix) for name in names) else ""
    stack = dims.encoder
    assert stack is not None
    for ours, theirs in (("embedding", "word"), ("token_types", "token_type")):
        if ours == "embedding" or dims.token_types:
            source = f"{prefix}embeddings.{theirs}_embeddings.weight"
            yield WeightMapping(target=f"{ours}.weight", sources=(source,))
    yield from norm("encoder.embedding_norm", f"{prefix}{layout.embedding_norm}")
    for i in range(stack.layers):
        ours, theirs = f"encoder.layers.{i}", f"{prefix}{layout.layer}.{i}"
        for target, source, bias in (
            ("attention.qkv", layout.qkv, stack.qkv_bias),
            ("attention.out", layout.out, stack.attention_bias),
            ("feedforward.down", layout.down, stack.feedforward_bias),
            ("attention_norm", layout.attention_norm, True),
            ("feedforward_norm", layout.feedforward_norm, True),
        ):
            yield from linear(f"{ours}.{target}", f"{theirs}.{source}", bias=bias)
        sources = tuple(f"{theirs}.{name}.weight" for name in layout.up)
        yield WeightMapping(
            target=f"{ours}.feedforward.up.weight",
            sources=sources,
            transform=_exchange_halves if len(sources) == 1 else None,
        )
        if stack.feedforward_bias:  # of the last product alone
            yield WeightMapping(target=f"{ours}.feedforward.up.bias", sources=(None,))
    yield from head_weights(layout.heads, dims, names, prefix)


def _exchange_halves(joined: Tensor) -> Tensor:
    """What is gated stands before the gate."""
    return torch.cat(joined.chunk(2)[::-1])


def _family(layout: Layout, name: str, model: str, **own: Any) -> Family:
    ends = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")
    return Family(
        name=name,
        architectures=tuple(f"{model}{end}" for end in ends),
        dims=functools.partial(_dims, layout, **own),
        weights=functools.partial(_weights, layout),
        unused=(r"(.*\.)?pooler\..*", r"cls\..*", r"lm_head\..*"),
    )


NOMIC_BERT = _family(
    Layout(
        prefix="nomic_bert.",
        embedding_norm="emb_ln",
        layer="encoder.layers",
        qkv="attn.Wqkv",
        out="attn.out_proj",
        attention_norm="norm1",
        up=("mlp.fc12", "mlp.fc11"),
        down="mlp.fc2",
        feedforward_norm="norm2",
        heads=Heads(
            classifier=("{}pooler.dense", "classifier"),
            classifier_activation="tanh",
            masked=(
                "cls.predictions.transform.dense",
                "cls.predictions.transform.layer_norm",
                "cls.predictions",
                "cls.predictions.decoder",
            ),
        ),
    ),
    "nomic_bert",
    "NomicBert",
    theta=1000.0,
    activation="silu",
    biases=False,
)
GTE = _family(
    Layout(
        prefix="gte.",
        embedding_norm="embeddings.LayerNorm",
        layer="encoder.layer",
        qkv="attention.qkv_proj",
        out="attention.o_proj",
        attention_norm="attn_ln",
        up=("mlp.up_gate_proj",),
        down="mlp.down_proj",
        feedforward_norm="mlp_ln",
        heads=Heads(
            classifier=("{}pooler.dense", "classifier"),
            classifier_activation="tanh",
            masked=("lm_head.dense", "lm_head.norm", "lm_head.decoder", "lm_head.decoder"),
            masked_activation="gelu",
        ),
    ),
    "gte",
    "Gte",
    theta=160000.0,
    activation="gelu",
    biases=True,
)
