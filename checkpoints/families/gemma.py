"""Gemma 1 and 3 (text): Llama's relatives with norms of their own.

A norm multiplies by 1 + weight. Sources: Gemma team 2024, 2025.
"""

from __future__ import annotations

import functools

from torch import Tensor

from seq2edge.checkpoints.families.family import Config
from seq2edge.checkpoints.families.llama import AROUND, Scales, decoder_family


def _one_more(weight: Tensor) -> Tensor:
    return weight + 1


def _scales(config: Config, _head_dim: int) -> Scales:
    return {
        "embedding_scale": config.size("hidden_size") ** 0.5,
        "attention_scale": float(config.get("query_pre_attn_scalar", 256)) ** -0.5,
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


_family = functools.partial(
    decoder_family,
    biases=("attention_bias", "attention_bias", False),
    norm_transform=_one_more,
)
GEMMA = _family(
    "gemma",
    "Gemma",
    activation=_first_activation,
    scales=_first_scales,
    required={"use_bidirectional_attention": False},
)
GEMMA3 = _family(
    "gemma3_text",
    "Gemma3",
    theta=1e6,
    window_theta=lambda config: float(config.get("rope_local_base_freq", 10000.0)),
    activation=lambda config: config.activation("hidden_activation", "gelu_pytorch_tanh"),
    norms=AROUND,
    qk_norm="head",
    windowed=_windowed,
    scales=_scales,
    required={
        "use_bidirectional_attention": False,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    },
)
