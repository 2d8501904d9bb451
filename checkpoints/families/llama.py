"""Llama, Mistral, Qwen2 and Qwen3: rotary decoders with RMS norms and gated feed-forwards.

Sources: Touvron et al. 2023, Jiang et al. 2023, Yang et al. 2024, 2025.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from seq2edge.checkpoints.families.family import Config, Family, Names, WeightMapping, linear, norm
from seq2edge.errors import UnsupportedError
from seq2edge.model.dims import Dims, StackDims


def _theta(config: Config) -> float:
    """The rotary base; every kind of scaling is refused by name."""
    parameters: dict[str, Any] = config.get("rope_parameters") or {}
    scaling: dict[str, Any] = config.get("rope_scaling") or {}
    kinds = {p.get("rope_type", p.get("type", "default")) for p in (parameters, scaling) if p}
    if kinds - {"default"}:
        raise UnsupportedError(
            f"config.json: rope scaling {', '.join(sorted(kinds - {'default'}))} is not supported"
        )
    for values in (parameters, scaling):
        if set(values) - {"rope_theta", "rope_type", "type"}:
            raise UnsupportedError(f"config.json: rope settings {values} are not supported")
    config.require("partial_rotary_factor", 1.0)
    return float(parameters.get("rope_theta") or config.get("rope_theta", 10000.0))


def _window(config: Config, layers: int, *, optional: bool) -> int:
    """The sliding window, or 0; only the same one for all layers is supported."""
    window = config.get("sliding_window") or 0
    kinds = set(config.get("layer_types") or ())
    if optional:
        used = bool(config.get("use_sliding_window", False))
        first = int(config.get("max_window_layers", 28))
        if used and not kinds:
            kinds = {"full_attention" if i < first else "sliding_attention" for i in range(layers)}
        window = window if used else 0
    if len(kinds) > 1 or kinds - {"full_attention", "sliding_attention"}:
        raise UnsupportedError(
            f"config.json: layer_types {', '.join(sorted(kinds))} in one model is not supported"
        )
    return 0 if kinds == {"full_attention"} else int(window)


def _dims(
    config: Config,
    names: Names,
    *,
    biases: str = "config",
    qk_norm: bool = False,
    windowed: bool = False,
    optional_window: bool = False,
) -> Dims:
    """The sizes that a config.json says; `biases` and `qk_norm` are what the family has."""
    width, heads = config.size("hidden_size"), config.size("num_attention_heads")
    layers = config.size("num_hidden_layers")
    head_dim = config.size("head_dim", width // heads)
    if not windowed:
        config.require("sliding_window")
    bias = bool(config.get("attention_bias", False)) if biases != "qkv" else False
    config.ignore("rope_interleaved", "is_llama_config")
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
        positions="rotary",
        max_positions=config.size("max_position_embeddings", 2048),
        rotary_theta=_theta(config),
        attention_scale=head_dim**-0.5,
        qkv_bias=bias or biases == "qkv",
        attention_bias=bias,
        feedforward_bias=bool(config.get("mlp_bias", False)),
        qk_norm=qk_norm,
        window=_window(config, layers, optional=optional_window) if windowed else 0,
    )
    tied = bool(config.get("tie_word_embeddings", "lm_head.weight" not in names))
    return Dims(width=width, vocab=config.size("vocab_size"), decoder=stack, tied=tied)


def _layer(ours: str, theirs: str, stack: StackDims) -> Iterator[WeightMapping]:
    """One layer's parameters; queries, keys and values become one product, gate and up another."""
    attention = f"{theirs}.self_attn"
    parts = (f"{attention}.{part}_proj" for part in "qkv")
    yield from linear(f"{ours}.attention.qkv", *parts, bias=stack.qkv_bias)
    yield from linear(f"{ours}.attention.out", f"{attention}.o_proj", bias=stack.attention_bias)
    if stack.qk_norm:
        yield from norm(f"{ours}.attention.query_norm", f"{attention}.q_norm", bias=False)
        yield from norm(f"{ours}.attention.key_norm", f"{attention}.k_norm", bias=False)
    yield from norm(f"{ours}.attention_norm", f"{theirs}.input_layernorm", bias=False)
    up = (f"{theirs}.mlp.gate_proj", f"{theirs}.mlp.up_proj")
    yield from linear(f"{ours}.feedforward.up", *up, bias=stack.feedforward_bias)
    down = f"{theirs}.mlp.down_proj"
    yield from linear(f"{ours}.feedforward.down", down, bias=stack.feedforward_bias)
    yield from norm(f"{ours}.feedforward_norm", f"{theirs}.post_attention_layernorm", bias=False)


def _weights(dims: Dims, names: Names) -> Iterator[WeightMapping]:
    del names
    assert dims.decoder is not None
    yield WeightMapping(target="embedding.weight", sources=("model.embed_tokens.weight",))
    if not dims.tied:
        yield from linear("lm_head", "lm_head", bias=False)
    yield from norm("decoder.final_norm", "model.norm", bias=False)
    for i in range(dims.decoder.layers):
        yield from _layer(f"decoder.layers.{i}", f"model.layers.{i}", dims.decoder)


def _family(name: str, architecture: str, **rules: Any) -> Family:
    return Family(
        name=name,
        architectures=(architecture,),
        dims=functools.partial(_dims, **rules),
        weights=_weights,
        aliases={"model.embed_tokens.weight": ("lm_head.weight",)},
        ignored=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
    )


LLAMA = _family("llama", "LlamaForCausalLM")
MISTRAL = _family("mistral", "MistralForCausalLM", windowed=True)
QWEN2 = _family("qwen2", "Qwen2ForCausalLM", biases="qkv", windowed=True, optional_window=True)
QWEN3 = _family("qwen3", "Qwen3ForCausalLM", qk_norm=True, windowed=True, optional_window=True)
