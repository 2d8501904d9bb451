"""LFM2 (Liquid AI 2025): gated short convolutions, and attention in some layers."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from seq2edge.checkpoints.families.family import Config, Names, WeightMapping, linear
from seq2edge.checkpoints.families.llama import (
    Traits,
    decoder_family,
    family_dims,
    family_weights,
    with_prefix,
)
from seq2edge.checkpoints.families.rotary import FULL
from seq2edge.errors import CheckpointError, UnsupportedError
from seq2edge.model.dims import Dims

CONVOLUTION = "conv"
_ATTENTION = re.compile(r"\w+\.layers\.(\d+)\.attention\.")


def _hidden(config: Config) -> int:
    """The feed-forward's width; two thirds of what the config says, rounded up, if it says so."""
    hidden = config.size("block_ff_dim", config.get("intermediate_size"))
    multiple = config.size("block_multiple_of", 256)
    factor = config.get("block_ffn_dim_multiplier", 1.0)
    if not config.get("block_auto_adjust_ff_dim", True):
        return hidden
    return multiple * -(-int(factor * int(2 * hidden / 3)) // multiple)


_TRAITS: dict[str, Any] = {
    "theta": 1e6,
    "biases": (False, False, False),
    "activation": lambda config: "silu",  # noqa: ARG005
    "epsilon": ("norm_eps", 1e-5),
    "norms": {"attention_norm": "operator_norm", "feedforward_norm": "ffn_norm"},
    "qk_norm": "head",
    "final_norm": "model.embedding_norm",
    "out": "self_attn.out_proj",
    "up": ("feed_forward.w1", "feed_forward.w3"),
    "down": "feed_forward.w2",
    "hidden": _hidden,
}


def _mixers(config: Config, layers: int) -> tuple[str, ...]:
    """What each layer has; older configs list the numbers of those with attention."""
    indices = config.get("full_attn_idxs")
    listed = range(layers) if indices is None else indices
    chosen = [FULL if i in listed else CONVOLUTION for i in range(layers)]
    kinds = config.get("layer_types", chosen)
    known = {FULL: "attention", CONVOLUTION: "convolution"}
    if set(kinds) - set(known):
        raise UnsupportedError(
            f"config.json: layer_types {', '.join(sorted(set(kinds)))} is not supported, "
            f"known: {', '.join(known)}"
        )
    if len(kinds) != layers:
        raise CheckpointError(f"config.json: {len(kinds)} layer_types for {layers} layers")
    return tuple(known[kind] for kind in kinds)


def _dims(traits: Traits, config: Config, names: Names) -> Dims:
    """The sizes that a config.json says."""
    config.require("conv_bias", False)
    config.ignore("tie_embedding")  # an older name of tie_word_embeddings; the tensors tell
    config.require("block_use_swiglu", True)
    config.require("use_pos_enc", True)
    # Older configs say some things a second time.
    config.ignore("conv_dim", "conv_dim_out", "conv_use_xavier_init", "block_dim", "block_norm_eps")
    config.ignore("block_use_xavier_init", "block_mlp_init_scale", "block_out_init_scale", "theta")
    config.ignore("num_heads")
    dims = family_dims(traits, config, names)
    side = "encoder" if dims.decoder is None else "decoder"
    layers = config.size("num_hidden_layers")
    kinds = {"mixers": _mixers(config, layers), "taps": config.size("conv_L_cache", 3)}
    return dataclasses.replace(dims, **{side: dataclasses.replace(getattr(dims, side), **kinds)})


def _weights(traits: Traits, dims: Dims, names: Names) -> Iterator[WeightMapping]:
    side = "encoder" if dims.decoder is None else "decoder"
    mixers = getattr(dims, side).mixers
    for weight in family_weights(traits, dims, names):
        attention = _ATTENTION.match(weight.target)
        if attention is None or mixers[int(attention[1])] == "attention":
            sources = tuple(
                re.sub(r"\.([qk])_norm\.", r".\1_layernorm.", str(name)) for name in weight.sources
            )
            yield dataclasses.replace(weight, sources=sources)
    if f"{traits.embedding}.weight" not in names:
        traits = with_prefix(traits, names)
    for i in (i for i, mixer in enumerate(mixers) if mixer == "convolution"):
        ours, theirs = f"{side}.layers.{i}.convolution", f"{traits.layers}.{i}.conv"
        yield from linear(f"{ours}.gates", f"{theirs}.in_proj", bias=False)
        yield from linear(f"{ours}.out", f"{theirs}.out_proj", bias=False)
        yield WeightMapping(
            target=f"{ours}.kernel", sources=(f"{theirs}.conv.weight",), combine=_kernel
        )


def _kernel(weight: Tensor) -> Tensor:
    """(width, 1, taps) -> (taps, width)."""
    return torch.transpose(weight[:, 0], 0, 1)


_OWN = Traits(**_TRAITS)
LFM2 = dataclasses.replace(
    decoder_family("lfm2", "Lfm2", classes=(), **_TRAITS),
    dims=functools.partial(_dims, _OWN),
    weights=functools.partial(_weights, _OWN),
)
