"""Moonshine (Jeffries et al. 2024): samples as they are in, tokens out; no window to fill.

Its attention rotates neighbours, whose rows are put in the order of halves instead, as in
`interleaved.py`; its decoder's products of the feed-forward stand in the other order.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from seq2edge.checkpoints.families.family import Config, Family, Names, WeightMapping, linear, norm
from seq2edge.checkpoints.families.interleaved import in_halves
from seq2edge.checkpoints.families.rotary import read_rotary
from seq2edge.errors import UnsupportedError
from seq2edge.model.dims import Dims, SampleDims, StackDims

SAMPLES = SampleDims(convolutions=((127, 64, 1), (7, 3, 2), (3, 2, 1)))
LONGEST = 64 * 16_000  # samples: more its authors' own program does not take
LAYERS = {"encoder": 6, "decoder": 6}  # where a config says none


def _stack(config: Config, side: str) -> StackDims:
    """The sizes of one side."""
    width, heads = config.size("hidden_size"), config.size(f"{side}_num_attention_heads", 8)
    kv_heads = config.size(f"{side}_num_key_value_heads", heads)
    if kv_heads != heads:  # transformers' class fails too
        raise UnsupportedError(
            f"{config.place}: {side}_num_key_value_heads {kv_heads} for {heads} heads is not "
            "supported, only as many"
        )
    head_dim = width // heads
    rotary = _whole_pairs(read_rotary(config, head_dim=head_dim, part=0.9), head_dim)
    if side == "encoder":
        rotary["max_positions"] = SAMPLES.positions(LONGEST)  # its config says the decoder's
    decodes = side == "decoder"
    return StackDims(
        layers=config.size(f"{side}_num_hidden_layers", LAYERS[side]),
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        hidden=config.size("intermediate_size"),
        activation=config.activation(f"{side}_hidden_act", "silu" if decodes else "gelu"),
        gated=decodes,
        norm_bias=False,
        attention_scale=head_dim**-0.5,
        qkv_bias=bool(config.get("attention_bias", False)),
        attention_bias=False,
        **rotary,
    )


def _whole_pairs(rotary: dict[str, Any], head_dim: int) -> dict[str, Any]:
    """Of an odd part of a head one value more is rotated, by frequencies of the odd number."""
    odd, theta = rotary["rotary_dim"] or head_dim, rotary["rotary_theta"]
    if odd % 2 == 0 or rotary["rotary_divisors"]:
        return rotary
    divisors = (theta ** (i / odd - i / (odd + 1)) for i in range(0, odd, 2))
    return {**rotary, "rotary_dim": odd + 1, "rotary_divisors": tuple(divisors)}


def _dims(config: Config, names: Names) -> Dims:
    """The sizes that a config.json says."""
    del names
    config.ignore("pad_head_dim_to_multiple_of")  # zeros, for some kernels
    heads = [config.get(f"{side}_num_attention_heads", 8) for side in ("encoder", "decoder")]
    if heads[0] != heads[1]:  # transformers' class has one number for both
        raise UnsupportedError(
            f"{config.place}: encoder_num_attention_heads {heads[0]} and "
            f"decoder_num_attention_heads {heads[1]} differ, which is not supported"
        )
    return Dims(
        width=config.size("hidden_size"),
        vocab=config.size("vocab_size"),
        samples=SAMPLES,
        encoder=_stack(config, "encoder"),
        decoder=_stack(config, "decoder"),
        tied=config.get("tie_word_embeddings", True) is True,
    )


def _gate_first(up: Tensor) -> Tensor:
    """Of a gated product's rows the second half, which is the gate, then the first."""
    return torch.cat(up.chunk(2)[::-1])


def _attention_weights(ours: str, theirs: str, stack: StackDims) -> Iterator[WeightMapping]:
    """Self-attention's; its rows are put in the order of halves."""
    for kind in ("weight", "bias") if stack.qkv_bias else ("weight",):
        yield WeightMapping(
            target=f"{ours}.qkv.{kind}",
            sources=tuple(f"{theirs}.{part}_proj.{kind}" for part in "qkv"),
            transform=functools.partial(in_halves, stack),
        )
    yield from linear(f"{ours}.out", f"{theirs}.o_proj", bias=False)


def _layer_weights(
    ours: str, theirs: str, stack: StackDims, *, cross: bool
) -> Iterator[WeightMapping]:
    """Those of one layer; of a decoder with what attends to the encoder."""
    yield from _attention_weights(f"{ours}.attention", f"{theirs}.self_attn", stack)
    norms = ["attention_norm", "cross_norm", "feedforward_norm"]
    theirs_norms = ["input_layernorm", "post_attention_layernorm", "final_layernorm"]
    if not cross:
        norms.remove("cross_norm")
    for mine, other in zip(norms, theirs_norms, strict=False):
        yield from norm(f"{ours}.{mine}", f"{theirs}.{other}", bias=False)
    if cross:
        attention = f"{theirs}.encoder_attn"
        bias = stack.qkv_bias
        yield from linear(f"{ours}.cross.query", f"{attention}.q_proj", bias=bias)
        sources = (f"{attention}.k_proj", f"{attention}.v_proj")
        yield from linear(f"{ours}.cross.key_value", *sources, bias=bias)
        yield from linear(f"{ours}.cross.out", f"{attention}.o_proj", bias=False)
    for kind in ("weight", "bias"):
        yield WeightMapping(
            target=f"{ours}.feedforward.up.{kind}",
            sources=(f"{theirs}.mlp.fc1.{kind}",),
            transform=_gate_first if stack.gated else None,
        )
    yield from linear(f"{ours}.feedforward.down", f"{theirs}.mlp.fc2")


def _weights(dims: Dims, names: Names) -> Iterator[WeightMapping]:
    """Every parameter, and the tensors it is made of."""
    del names
    yield WeightMapping(target="embedding.weight", sources=("model.decoder.embed_tokens.weight",))
    if not dims.tied:
        yield from linear("lm_head", "proj_out", bias=False)
    for i in range(len(SAMPLES.convolutions)):
        theirs = f"model.encoder.conv{i + 1}"
        yield from linear(f"convolutions.layers.{i}", theirs, bias=i > 0)
    yield from linear("convolutions", "model.encoder.groupnorm")
    for side, stack, last in (
        ("encoder", dims.encoder, "layer_norm"),
        ("decoder", dims.decoder, "norm"),
    ):
        assert stack is not None
        yield from norm(f"{side}.final_norm", f"model.{side}.{last}", bias=False)
        for i in range(stack.layers):
            yield from _layer_weights(
                f"{side}.layers.{i}", f"model.{side}.layers.{i}", stack, cross=side == "decoder"
            )


MOONSHINE = Family(
    name="moonshine",
    architectures=("MoonshineForConditionalGeneration",),
    dims=_dims,
    weights=_weights,
    aliases={"model.decoder.embed_tokens.weight": ("proj_out.weight",)},
)
