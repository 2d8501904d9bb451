"""T5, Flan-T5, mT5 and umT5 (Raffel et al. 2020, Xue et al. 2021, Chung et al. 2023)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from seq2edge.checkpoints.families.family import Config, Family, Names, WeightMapping, linear, norm
from seq2edge.errors import UnsupportedError
from seq2edge.model.dims import Dims, StackDims

FEEDFORWARDS = {
    "relu": ("relu", False),
    "gated-gelu": ("gelu_tanh", True),
    "gated-silu": ("silu", True),
    "gelu": ("gelu", False),
    "silu": ("silu", False),
}


def _stack(config: Config, layers: int, default_feedforward: str) -> StackDims:
    """The sizes of the encoder or the decoder, which share all but their number of layers."""
    name = config.get("feed_forward_proj", default_feedforward)
    if name not in FEEDFORWARDS:
        raise UnsupportedError(
            f"config.json: feed_forward_proj {name!r} is not supported, "
            f"known: {', '.join(FEEDFORWARDS)}"
        )
    activation, gated = FEEDFORWARDS[name]
    heads = config.size("num_heads")
    buckets = config.size("relative_attention_num_buckets", 32)
    farthest = config.size("relative_attention_max_distance", 128)
    if farthest <= buckets // 2:
        raise UnsupportedError(
            f"config.json: relative_attention_max_distance {farthest} is not supported, "
            f"{buckets} buckets need more than {buckets // 2}"
        )
    return StackDims(
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=config.size("d_kv"),
        hidden=config.size("d_ff"),
        activation=activation,
        gated=gated,
        norm="rms",
        norm_epsilon=float(config.get("layer_norm_epsilon", 1e-6)),
        positions="relative",
        relative_buckets=buckets,
        relative_distance=farthest,
        qkv_bias=False,
        attention_bias=False,
        feedforward_bias=False,
    )


def _sizes(config: Config, names: Names, default_feedforward: str, *, scaled: bool) -> Dims:
    config.ignore("dense_act_fn", "is_gated_act", "n_positions", "output_past")
    config.ignore("scalable_attention")  # umT5's; no code reads it
    layers, width = config.size("num_layers"), config.size("d_model")
    return Dims(
        width=width,
        vocab=config.size("vocab_size"),
        encoder=_stack(config, layers, default_feedforward),
        decoder=_stack(config, config.size("num_decoder_layers", layers), default_feedforward),
        tied="lm_head.weight" not in names,
        logits_scale=width**-0.5 if scaled else 1.0,
    )


def _t5_dims(config: Config, names: Names) -> Dims:
    scaled = config.get("tie_word_embeddings", True)
    scaled = bool(config.get("scale_decoder_outputs", scaled))
    return _sizes(config, names, "relu", scaled=scaled)


def _mt5_dims(config: Config, names: Names) -> Dims:
    config.ignore("tie_word_embeddings")
    return _sizes(config, names, "gated-gelu", scaled=False)


def _umt5_dims(config: Config, names: Names) -> Dims:
    scaled = config.get("tie_word_embeddings", True)
    scaled = bool(config.get("scale_decoder_outputs", scaled))
    dims = _sizes(config, names, "gated-gelu", scaled=scaled)
    assert dims.encoder is not None
    assert dims.decoder is not None
    return dataclasses.replace(
        dims,
        encoder=dataclasses.replace(dims.encoder, relative_layers=True),
        decoder=dataclasses.replace(dims.decoder, relative_layers=True),
    )


def _attention(ours: str, theirs: str, *, cross: bool) -> Iterator[WeightMapping]:
    q, k, v = (f"{theirs}.{part}" for part in "qkv")
    if cross:
        yield from linear(f"{ours}.query", q, bias=False)
        yield from linear(f"{ours}.key_value", k, v, bias=False)
    else:
        yield from linear(f"{ours}.qkv", q, k, v, bias=False)
    yield from linear(f"{ours}.out", f"{theirs}.o", bias=False)


def _layer(ours: str, theirs: str, *, cross: bool, gated: bool) -> Iterator[WeightMapping]:
    """One layer's parameters; the decoder has a sublayer of cross-attention between."""
    yield from _attention(f"{ours}.attention", f"{theirs}.0.SelfAttention", cross=False)
    yield from norm(f"{ours}.attention_norm", f"{theirs}.0.layer_norm", bias=False)
    if cross:
        yield from _attention(f"{ours}.cross", f"{theirs}.1.EncDecAttention", cross=True)
        yield from norm(f"{ours}.cross_norm", f"{theirs}.1.layer_norm", bias=False)
    last = f"{theirs}.{2 if cross else 1}"
    up = ("wi_0", "wi_1") if gated else ("wi",)
    sources = (f"{last}.DenseReluDense.{name}" for name in up)
    yield from linear(f"{ours}.feedforward.up", *sources, bias=False)
    yield from linear(f"{ours}.feedforward.down", f"{last}.DenseReluDense.wo", bias=False)
    yield from norm(f"{ours}.feedforward_norm", f"{last}.layer_norm", bias=False)


def _weights(dims: Dims, names: Names) -> Iterator[WeightMapping]:
    """Every parameter that these dims have; T5's first layer has the biases of all."""
    del names
    yield WeightMapping(target="embedding.weight", sources=("shared.weight",))
    if not dims.tied:
        yield from linear("lm_head", "lm_head", bias=False)
    for side, stack in (("encoder", dims.encoder), ("decoder", dims.decoder)):
        assert stack is not None
        for i in range(stack.layers if stack.relative_layers else 1):
            ours = f"relatives.{i}" if stack.relative_layers else "relative"
            bias = f"{side}.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight"
            yield WeightMapping(target=f"{side}.{ours}.weight", sources=(bias,))
        yield from norm(f"{side}.final_norm", f"{side}.final_layer_norm", bias=False)
        for i in range(stack.layers):
            theirs = f"{side}.block.{i}.layer"
            cross = side == "decoder"
            yield from _layer(f"{side}.layers.{i}", theirs, cross=cross, gated=stack.gated)


_ALIASES = {"shared.weight": ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")}
# Old checkpoints carry a bias table for cross-attention, which the model has never read.
_UNUSED = (r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",)

T5 = Family(
    name="t5",
    architectures=("T5ForConditionalGeneration", "T5WithLMHeadModel"),
    dims=_t5_dims,
    weights=_weights,
    aliases=_ALIASES,
    unused=_UNUSED,
)
MT5 = Family(
    name="mt5",
    architectures=("MT5ForConditionalGeneration",),
    dims=_mt5_dims,
    weights=_weights,
    aliases=_ALIASES,
    unused=_UNUSED,
)
UMT5 = Family(
    name="umt5",
    architectures=("UMT5ForConditionalGeneration",),
    dims=_umt5_dims,
    weights=_weights,
    aliases=_ALIASES,
    unused=_UNUSED,
)
