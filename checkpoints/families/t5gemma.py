"""T5Gemma: an encoder and a decoder of Gemma 2's layers (Zhang et al. 2025).

Each side has a config, a table of embeddings and sizes of its own; the LM head is the decoder's
table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from seq2edge.checkpoints.families.family import Config, Family, Names, WeightMapping, linear
from seq2edge.checkpoints.families.gemma import SECOND, second_scales
from seq2edge.checkpoints.families.llama import (
    QKV,
    Traits,
    layer_weights,
    scaled_norm,
    stack_dims,
)
from seq2edge.model.dims import Dims, StackDims

_TRAITS = Traits(
    **{
        **SECOND,
        "norms": {
            "attention_norm": "pre_self_attn_layernorm",
            "attention_output_norm": "post_self_attn_layernorm",
            "feedforward_norm": "pre_feedforward_layernorm",
            "feedforward_output_norm": "post_feedforward_layernorm",
        },
    }
)
_CROSS_NORMS = {
    "cross_norm": "pre_cross_attn_layernorm",
    "cross_output_norm": "post_cross_attn_layernorm",
}
_EMBEDDING = "model.{}.embed_tokens"
_HEAD = "lm_head.out_proj"


def _stack(part: Config) -> StackDims:
    """The sizes of one side."""
    # The whole model's config says what is tied, and the classes say which side it is.
    part.ignore("tie_word_embeddings", "is_decoder", "classifier_dropout_rate")
    return stack_dims(_TRAITS, part)


def _dims(config: Config, names: Names) -> Dims:
    del names
    config.ignore("classifier_dropout_rate")
    encoder, decoder = config.part("encoder"), config.part("decoder")
    source_width, width = (part.size("hidden_size") for part in (encoder, decoder))
    config.ignore("vocab_size")  # the sides have their own
    stack = _stack(encoder)
    # So many tokens on either side, where a decoder's window holds so many with the last one.
    windows = tuple(window and window + 1 for window in stack.layer_windows)
    return Dims(
        width=width,
        encoder_width=source_width if source_width != width else 0,
        vocab=decoder.size("vocab_size"),
        source_vocab=encoder.size("vocab_size"),
        encoder=dataclasses.replace(stack, window=0, windows=windows),
        decoder=_stack(decoder),
        tied=bool(config.get("tie_word_embeddings", True)),
        logits_cap=second_scales(decoder, 0)["logits_cap"],
    )


def _weights(dims: Dims, names: Names) -> Iterator[WeightMapping]:
    """Every parameter, and the tensors it is made of."""
    del names
    tables = {"embedding": "decoder", "source_embedding": "encoder"}
    for ours, side in tables.items():
        yield from linear(ours, _EMBEDDING.format(side), bias=False)
    if not dims.tied:
        yield from linear("lm_head", _HEAD, bias=False)
    for side, stack in (("encoder", dims.encoder), ("decoder", dims.decoder)):
        assert stack is not None
        yield from scaled_norm(f"{side}.final_norm", f"model.{side}.norm", _TRAITS)
        for i in range(stack.layers):
            ours, theirs = f"{side}.layers.{i}", f"model.{side}.layers.{i}"
            yield from layer_weights(ours, theirs, stack, _TRAITS)
            if side == "decoder":
                yield from _cross(ours, theirs, bias=stack.qkv_bias)


def _cross(ours: str, theirs: str, *, bias: bool) -> Iterator[WeightMapping]:
    """A layer's attention to the source."""
    query, key, value = (f"{theirs}.{name.replace('self', 'cross')}" for name in QKV)
    yield from linear(f"{ours}.cross.query", query, bias=bias)
    yield from linear(f"{ours}.cross.key_value", key, value, bias=bias)
    yield from linear(f"{ours}.cross.out", f"{theirs}.cross_attn.o_proj", bias=bias)
    for target, source in _CROSS_NORMS.items():
        yield from scaled_norm(f"{ours}.{target}", f"{theirs}.{source}", _TRAITS)


T5GEMMA = Family(
    name="t5gemma",
    architectures=("T5GemmaForConditionalGeneration",),
    dims=_dims,
    weights=_weights,
    aliases={f"{_EMBEDDING.format('decoder')}.weight": (f"{_HEAD}.weight",)},
)
