"""Gemma 1, 2, 3 (text) and EmbeddingGemma: Llama's relatives with norms of their own.

A norm multiplies by 1 + weight. Sources: Gemma team 2024, 2025; Vera et al. 2025.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from torch import Tensor

from seq2edge.checkpoints.families.family import Config, Names, decoder_task
from seq2edge.checkpoints.families.llama import (
    AROUND,
    CLASSES,
    TOKENS,
    Scales,
    Traits,
    decoder_family,
    family_dims,
    family_weights,
    stack_dims,
    text_dims,
)
from seq2edge.model.dims import Dims


def _one_more(weight: Tensor) -> Tensor:
    return weight + 1


def _scales(config: Config, _head_dim: int) -> Scales:
    return {
        "embedding_scale": config.size("hidden_size") ** 0.5,
        "attention_scale": float(config.get("query_pre_attn_scalar", 256)) ** -0.5,
    }


def second_scales(config: Config, head_dim: int) -> Scales:
    """Gemma 2's, which also bounds scores and logits unless its config says null."""
    return {
        **_scales(config, head_dim),
        "attention_cap": float(config.nullable("attn_logit_softcapping", 50.0) or 0.0),
        "logits_cap": float(config.nullable("final_logit_softcapping", 30.0) or 0.0),
    }


def _first_scales(config: Config, head_dim: int) -> Scales:
    width = config.size("hidden_size")
    return {"embedding_scale": width**0.5, "attention_scale": head_dim**-0.5}


def _first_activation(config: Config) -> str:
    """The first configs say `gelu` and mean its approximation."""
    config.require("hidden_activation", "gelu_pytorch_tanh")
    name = config.activation("hidden_act", "gelu_pytorch_tanh")
    return "gelu_tanh" if name == "gelu" else name


def _windowed(config: Config, layer: int) -> bool:
    """All but each sixth layer."""
    every = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern", 6)
    return (layer + 1) % int(every) != 0


_GEMMA: dict[str, Any] = {
    "biases": ("attention_bias", "attention_bias", False),
    "norm_transform": _one_more,
}
GEMMA = decoder_family(
    "gemma",
    "Gemma",
    classes=(CLASSES, TOKENS),
    **_GEMMA,
    activation=_first_activation,
    scales=_first_scales,
    required={"use_bidirectional_attention": False},
)
SECOND: dict[str, Any] = {
    **_GEMMA,
    "activation": lambda config: config.activation("hidden_activation", "gelu_pytorch_tanh"),
    "norms": AROUND,
    "windowed": lambda _config, layer: layer % 2 == 0,
    "scales": second_scales,
    "required": {"use_bidirectional_attention": False, "hidden_act": "gelu_pytorch_tanh"},
}
GEMMA2 = decoder_family("gemma2", "Gemma2", classes=(CLASSES, TOKENS), **SECOND)
_THIRD = Traits(
    **_GEMMA,
    theta=1e6,
    window_theta=lambda config: float(config.get("rope_local_base_freq", 10000.0)),
    activation=lambda config: config.activation("hidden_activation", "gelu_pytorch_tanh"),
    norms=AROUND,
    qk_norm="head",
    windowed=_windowed,
    scales=_scales,
    required={"attn_logit_softcapping": None, "final_logit_softcapping": None},
)


def _third_dims(config: Config, names: Names) -> Dims:
    """Of a decoder, or of an encoder where every token sees those on both sides."""
    if not config.get("use_bidirectional_attention", False):
        return family_dims(_THIRD, config, names)
    stack = stack_dims(_THIRD, config)
    # Half the window's tokens on either side.
    windows = tuple(window and window // 2 + 1 for window in stack.layer_windows)
    task = decoder_task(config)
    task = "embed" if task == "generate" else task
    return text_dims(config, dataclasses.replace(stack, windows=windows), task, "mean")


GEMMA3 = dataclasses.replace(
    decoder_family("gemma3_text", "Gemma3"),
    architectures=("Gemma3ForCausalLM", "Gemma3TextModel", f"Gemma3Text{CLASSES}"),
    dims=_third_dims,
    weights=functools.partial(family_weights, _THIRD),
)
