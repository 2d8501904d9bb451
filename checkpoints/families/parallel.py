"""Phi-2, GPT-NeoX (Pythia) and Falcon: attention and feed-forward side by side.

Sources: Li et al. 2023, Black et al. 2022, Biderman et al. 2023, Almazrouei et al. 2023.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from seq2edge.checkpoints.families.family import Config, Names, WeightMapping
from seq2edge.checkpoints.families.heads import Heads
from seq2edge.checkpoints.families.llama import (
    BEFORE,
    CLASSES,
    TOKENS,
    Traits,
    decoder_family,
    family_weights,
)
from seq2edge.model.dims import Dims, StackDims

HEADS = Heads(classifier=("score",))  # of GPT-NeoX and Falcon


def by_kind(stack: StackDims, qkv: Tensor) -> Tensor:
    """Some queries, their key and their value, then the next -> all queries, all keys, all values.

    In `qkv` there are as many such groups as heads of keys.
    """
    groups = stack.heads // stack.kv_heads
    heads = qkv.reshape(stack.kv_heads, groups + 2, stack.head_dim, -1)
    parts = (heads[:, :groups], heads[:, groups], heads[:, groups + 1])
    width = heads.shape[-1]
    return torch.cat([part.reshape(-1, width) for part in parts]).reshape(qkv.shape)


PHI = decoder_family(
    "phi",
    "Phi",
    classes=(CLASSES, TOKENS),
    part=0.5,
    biases=(True, True, True),
    activation=lambda config: config.activation("hidden_act", "gelu_new"),
    epsilon=("layer_norm_eps", 1e-5),
    norm="layer",
    norms={"attention_norm": "input_layernorm", "feedforward_norm": "input_layernorm"},
    parallel=lambda _config: True,
    final_norm="model.final_layernorm",
    head_bias=True,
    out="self_attn.dense",
    up=("mlp.fc1",),
    down="mlp.fc2",
    gated=False,
    required={"qk_layernorm": False},
)
GPT_NEOX = decoder_family(
    "gpt_neox",
    "GPTNeoX",
    keys={"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
    part=0.25,
    biases=(True, True, True),
    activation=lambda config: config.activation("hidden_act", "gelu"),
    epsilon=("layer_norm_eps", 1e-5),
    norm="layer",
    parallel=lambda config: bool(config.get("use_parallel_residual", True)),
    embedding="gpt_neox.embed_in",
    layers="gpt_neox.layers",
    final_norm="gpt_neox.final_layer_norm",
    head="embed_out",
    heads=HEADS,
    qkv=("attention.query_key_value",),
    qkv_transform=by_kind,
    out="attention.dense",
    up=("mlp.dense_h_to_4h",),
    down="mlp.dense_4h_to_h",
    gated=False,
    required={"attention_bias": True},
)


def _falcon_heads(config: Config, heads: int) -> int:
    """Heads of keys and values."""
    # The tensors' names say which norms there are.
    config.ignore("multi_query", "num_kv_heads", "num_ln_in_parallel_attn")
    if config.get("new_decoder_architecture", False):
        return config.size("num_key_value_heads", heads)
    return 1 if config.get("multi_query", True) else heads


_FALCON = Traits(
    keys={"intermediate_size": "ffn_hidden_size", "num_key_value_heads": "num_kv_heads"},
    biases=("bias", "bias", "bias"),
    activation=lambda config: config.activation("activation", "gelu"),
    epsilon=("layer_norm_epsilon", 1e-5),
    norm="layer",
    parallel=lambda config: bool(
        config.get("parallel_attn", True) or config.get("new_decoder_architecture", False)
    ),
    kv_heads=_falcon_heads,
    hidden=lambda config: config.size("intermediate_size", 4 * config.size("hidden_size")),
    embedding="transformer.word_embeddings",
    layers="transformer.h",
    heads=HEADS,
    final_norm="transformer.ln_f",
    qkv=("self_attention.query_key_value",),
    qkv_transform=by_kind,
    out="self_attention.dense",
    up=("mlp.dense_h_to_4h",),
    down="mlp.dense_4h_to_h",
    gated=False,
    required={"alibi": False, "apply_residual_connection_post_layernorm": False},
)


def _falcon_weights(dims: Dims, names: Names) -> Iterator[WeightMapping]:
    """Its members have norms of their own for both parts, one for both, or one after the other."""
    norms = {"attention_norm": "ln_attn", "feedforward_norm": "ln_mlp"}
    if "transformer.h.0.ln_attn.weight" not in names:
        one = "input_layernorm"
        parallel = dims.decoder is not None and dims.decoder.parallel
        norms = {"attention_norm": one, "feedforward_norm": one} if parallel else dict(BEFORE)
    return family_weights(dataclasses.replace(_FALCON, norms=norms), dims, names)


FALCON = dataclasses.replace(
    decoder_family("falcon", "Falcon", **vars(_FALCON)), weights=_falcon_weights
)
