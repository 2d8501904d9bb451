"""Llama and its relatives: rotary decoders with RMS norms and gated feed-forwards.

Sources: Touvron et al. 2023 (Llama), Jiang et al. 2023 (Mistral), Yang et al. 2024, 2025 (Qwen),
Abdin et al. 2024 (Phi-3); SmolLM3 has no paper.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from seq2edge.checkpoints.families.family import Config, Family, Names, WeightMapping, linear, norm
from seq2edge.checkpoints.families.rotary import read_rotary
from seq2edge.errors import CheckpointError, UnsupportedError
from seq2edge.model.dims import Dims, StackDims


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traits:
    """What one family has that its configs do not say."""

    theta: float = 10000.0  # base of the rotary frequencies where the config says none
    biases: str = "config"  # `config`: where it says so; `qkv`: there always; `none`
    qk_norm: bool = False
    windows: str = ""  # whether layers have a window, and `optional` where configs switch it on
    skips: bool = False  # some layers are not rotated
    packed: bool = False  # queries, keys and values are one tensor, gate and up another


def _window(config: Config, layers: int, traits: Traits) -> int:
    """The sliding window, or 0; only the same one for all layers is supported."""
    window = config.get("sliding_window") or 0
    kinds = set(config.get("layer_types") or ())
    if traits.windows == "optional":
        used = bool(config.get("use_sliding_window", False))
        first = int(config.get("max_window_layers", 28))
        if used and not kinds:
            kinds = {"full_attention" if i < first else "sliding_attention" for i in range(layers)}
        window = window if used else 0
    if len(kinds) > 1 or kinds - {"full_attention", "sliding_attention"}:
        raise UnsupportedError(
            f"config.json: layer_types {', '.join(sorted(kinds))} in one model is not supported"
        )
    if kinds == {"full_attention"} or window >= config.size("max_position_embeddings", 2048):
        return 0  # as long as the longest text: it hides nothing
    return int(window)


def _unrotated(config: Config, layers: int) -> tuple[int, ...]:
    """The layers that SmolLM3 leaves without positions, every fourth one unless it says which."""
    interval = config.size("no_rope_layer_interval", 4)
    rotated = config.get("no_rope_layers", [(i + 1) % interval for i in range(layers)])
    if not isinstance(rotated, list) or len(rotated) < layers:
        raise CheckpointError(
            f"config.json: no_rope_layers {rotated!r} is no list of {layers} layers"
        )
    return tuple(i for i in range(layers) if not rotated[i])


def _dims(traits: Traits, config: Config, names: Names) -> Dims:
    """The sizes that a config.json says."""
    width, heads = config.size("hidden_size"), config.size("num_attention_heads")
    layers = config.size("num_hidden_layers")
    head_dim = config.size("head_dim", width // heads)
    if not traits.windows:
        config.require("sliding_window")
    if traits.packed:  # switches of the first code of Phi-4-mini
        config.require("full_attn_mod", 1)
        config.require("interpolate_factor", 1)
    biased = traits.biases == "config"
    bias = bool(config.get("attention_bias", False)) if biased else False
    config.ignore("rope_interleaved", "is_llama_config", "max_window_layers")
    stack = StackDims(
        layers=layers,
        heads=heads,
        kv_heads=config.size("num_key_value_heads", heads),
        head_dim=head_dim,
        hidden=config.size("intermediate_size"),
        activation=config.activation("hidden_act", "silu"),
        gated=True,
        norm="rms",
        norm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
        unrotated_layers=_unrotated(config, layers) if traits.skips else (),
        attention_scale=head_dim**-0.5,
        qkv_bias=bias or traits.biases == "qkv",
        attention_bias=bias,
        feedforward_bias=bool(config.get("mlp_bias", False)) if biased else False,
        qk_norm=traits.qk_norm,
        window=_window(config, layers, traits) if traits.windows else 0,
        **read_rotary(config, head_dim=head_dim, theta=traits.theta),
    )
    tied = bool(config.get("tie_word_embeddings", "lm_head.weight" not in names))
    return Dims(width=width, vocab=config.size("vocab_size"), decoder=stack, tied=tied)


def _layer(ours: str, theirs: str, stack: StackDims, traits: Traits) -> Iterator[WeightMapping]:
    """One layer's parameters; queries, keys and values become one product, gate and up another."""
    attention, packed = f"{theirs}.self_attn", traits.packed
    parts = [f"{attention}.{part}_proj" for part in (("qkv",) if packed else "qkv")]
    yield from linear(f"{ours}.attention.qkv", *parts, bias=stack.qkv_bias)
    yield from linear(f"{ours}.attention.out", f"{attention}.o_proj", bias=stack.attention_bias)
    if stack.qk_norm:
        yield from norm(f"{ours}.attention.query_norm", f"{attention}.q_norm", bias=False)
        yield from norm(f"{ours}.attention.key_norm", f"{attention}.k_norm", bias=False)
    yield from norm(f"{ours}.attention_norm", f"{theirs}.input_layernorm", bias=False)
    up = [f"{theirs}.mlp.{part}_proj" for part in (("gate_up",) if packed else ("gate", "up"))]
    yield from linear(f"{ours}.feedforward.up", *up, bias=stack.feedforward_bias)
    down = f"{theirs}.mlp.down_proj"
    yield from linear(f"{ours}.feedforward.down", down, bias=stack.feedforward_bias)
    yield from norm(f"{ours}.feedforward_norm", f"{theirs}.post_attention_layernorm", bias=False)


def _weights(traits: Traits, dims: Dims, names: Names) -> Iterator[WeightMapping]:
    del names
    assert dims.decoder is not None
    yield WeightMapping(target="embedding.weight", sources=("model.embed_tokens.weight",))
    if not dims.tied:
        yield from linear("lm_head", "lm_head", bias=False)
    yield from norm("decoder.final_norm", "model.norm", bias=False)
    for i in range(dims.decoder.layers):
        yield from _layer(f"decoder.layers.{i}", f"model.layers.{i}", dims.decoder, traits)


def _family(name: str, model: str, **traits: Any) -> Family:
    own = Traits(**traits)
    return Family(
        name=name,
        architectures=(f"{model}ForCausalLM",),
        dims=functools.partial(_dims, own),
        weights=functools.partial(_weights, own),
        aliases={"model.embed_tokens.weight": ("lm_head.weight",)},
        ignored=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
    )


LLAMA = _family("llama", "Llama")
MISTRAL = _family("mistral", "Mistral", windows="all")
QWEN2 = _family("qwen2", "Qwen2", biases="qkv", windows="optional")
QWEN3 = _family("qwen3", "Qwen3", qk_norm=True, windows="optional")
SMOLLM3 = _family("smollm3", "SmolLM3", theta=2e6, windows="optional", skips=True)
PHI3 = _family("phi3", "Phi3", biases="none", windows="all", packed=True)
