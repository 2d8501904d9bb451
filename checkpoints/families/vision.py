"""Images in, text out: `VisionEncoderDecoderModel` of a ViT or DeiT and a decoder.

TrOCR (Li et al. 2021) has BART's layers in its decoder; captions are written by a GPT-2 that
attends to the image. ViT: Dosovitskiy et al. 2021; DeiT, with a token for distillation: Touvron et
al. 2021.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from seq2edge.checkpoints.families import gpt2
from seq2edge.checkpoints.families.bart import (
    Layout,
    layer_weights,
    made_positions,
    stack_dims,
    tensor2tensor_table,
)
from seq2edge.checkpoints.families.family import Config, Family, Names, WeightMapping, linear, norm
from seq2edge.checkpoints.families.missing import MISSING
from seq2edge.errors import CheckpointError, UnsupportedError
from seq2edge.model.dims import Dims, ImageDims, StackDims

TOKENS = {"vit": ("cls_token",), "deit": ("cls_token", "distillation_token")}
DECODERS = ("trocr", "gpt2")
TROCR = "decoder.model.decoder"
GPT2 = "decoder.transformer."
OFFSET = 2  # rows of TrOCR's learned positions before the first token's


def _dims(config: Config, names: Names) -> Dims:
    """The sizes of encoder, decoder and image."""
    del names
    config.require("tie_word_embeddings", False, True)  # of the decoder alone, whose config says it
    encoder, decoder = config.part("encoder"), config.part("decoder")
    kind = _kind(encoder, tuple(TOKENS))
    image = _image(encoder, len(TOKENS[kind]))
    stack = _trocr(config, decoder) if _kind(decoder, DECODERS) == "trocr" else _gpt2(decoder)
    width = decoder.size("d_model" if decoder.get("model_type") == "trocr" else "n_embd")
    source_width = encoder.size("hidden_size")
    read = decoder.get("cross_attention_hidden_size")
    if read not in (None, source_width):
        raise CheckpointError(
            f"{decoder.place}: cross_attention_hidden_size is {read!r}, the encoder is "
            f"{source_width} wide"
        )
    return Dims(
        width=width,
        vocab=decoder.size("vocab_size"),
        image=image,
        encoder_width=source_width if source_width != width else 0,
        encoder_product=source_width != width and read is None,
        encoder=_encoder(encoder, image.positions),
        decoder=stack,
        tied=decoder.get("tie_word_embeddings", True) is True,
    )


def _kind(config: Config, known: tuple[str, ...]) -> str:
    kind = str(config.get("model_type", ""))
    if kind not in known:
        need = f": it needs {MISSING[kind]}" if kind in MISSING else ""
        raise UnsupportedError(
            f"{config.place}: model_type {kind!r} is not supported{need}; known: {', '.join(known)}"
        )
    return kind


def _image(config: Config, tokens: int) -> ImageDims:
    height, width = _pair(config, "image_size", 224)
    patch_height, patch_width = _pair(config, "patch_size", 16)
    return ImageDims(
        height=height,
        width=width,
        channels=config.size("num_channels", 3),
        patch_height=patch_height,
        patch_width=patch_width,
        tokens=tokens,
    )


def _pair(config: Config, key: str, default: int) -> tuple[int, int]:
    """Height and width, which may be one number."""
    value = config.get(key, default)
    sizes = (value, value) if isinstance(value, int) else value
    whole = isinstance(sizes, (list, tuple)) and len(sizes) == 2
    if not whole or not all(type(size) is int and size > 0 for size in sizes):
        raise CheckpointError(
            f"{config.place}: {key} is {value!r}, needs a positive integer, or height and width"
        )
    return sizes[0], sizes[1]


def _encoder(config: Config, positions: int) -> StackDims:
    # Of other heads.
    config.ignore("encoder_stride", "pooler_output_size", "pooler_act", "tie_word_embeddings")
    width, heads = config.size("hidden_size"), config.size("num_attention_heads")
    head_dim = config.size("head_dim", width // heads)
    return StackDims(
        layers=config.size("num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        hidden=config.size("intermediate_size"),
        activation=config.activation("hidden_act", "gelu"),
        norm_epsilon=float(config.get("layer_norm_eps", 1e-12)),
        max_positions=positions,
        attention_scale=head_dim**-0.5,
        qkv_bias=config.get("qkv_bias", True) is True,
    )


def _trocr(config: Config, decoder: Config) -> StackDims:
    """TrOCR's decoder; what its sinusoidal positions count from is said in either config."""
    decoder.ignore("is_decoder", "add_cross_attention")  # it always does
    learned = decoder.get("use_learned_position_embeddings", True) is True
    start = config.get("decoder_start_token_id", decoder.get("decoder_start_token_id"))
    if not learned and start == decoder.get("pad_token_id", 1):
        raise UnsupportedError(
            f"config.json: decoder_start_token_id {start} is the decoder's pad_token_id too, and "
            "padding has no position: not supported"
        )
    layout = Layout(
        pre_norm=False,
        final_norm=False,
        embedding_norm=decoder.get("layernorm_embedding", True) is True,
        positions="learned" if learned else "sinusoidal",
        logits_bias=False,
        padded_positions=not learned,
    )
    return stack_dims(decoder, layout, "decoder", decoder.size("max_position_embeddings", 512))


def _gpt2(decoder: Config) -> StackDims:
    decoder.ignore("is_decoder")
    if decoder.get("add_cross_attention") is not True:
        raise UnsupportedError(
            f"{decoder.place}: add_cross_attention is not true, it reads no image"
        )
    return gpt2.decoder_stack(decoder)


def _weights(dims: Dims, names: Names) -> Iterator[WeightMapping]:
    """Every parameter, and the tensors it is made of."""
    yield from _encoder_weights(dims)
    if dims.encoder_product:
        yield from linear("encoder_product", "enc_to_dec_proj")
    assert dims.decoder is not None
    if f"{GPT2}wte.weight" in names:
        yield from gpt2.layer_weights("decoder", dims.decoder, GPT2, cross=True)
    else:
        yield from _trocr_weights(dims, dims.decoder)


def _encoder_weights(dims: Dims) -> Iterator[WeightMapping]:
    stack, image = dims.encoder, dims.image
    assert stack is not None
    assert image is not None
    yield from linear("patches", "encoder.embeddings.patch_embeddings.projection")
    tokens = next(each for each in TOKENS.values() if len(each) == image.tokens)
    parts = ("position_embeddings", *tokens)
    yield WeightMapping(
        target="encoder.positions.weight",
        sources=tuple(f"encoder.embeddings.{part}" for part in parts),
        combine=_positions,
    )
    yield from norm("encoder.final_norm", "encoder.layernorm")
    for i in range(stack.layers):
        ours, theirs = f"encoder.layers.{i}", f"encoder.encoder.layer.{i}"
        attention = (f"{theirs}.attention.attention.{part}" for part in ("query", "key", "value"))
        yield from linear(f"{ours}.attention.qkv", *attention, bias=stack.qkv_bias)
        yield from linear(f"{ours}.attention.out", f"{theirs}.attention.output.dense")
        yield from norm(f"{ours}.attention_norm", f"{theirs}.layernorm_before")
        yield from linear(f"{ours}.feedforward.up", f"{theirs}.intermediate.dense")
        yield from linear(f"{ours}.feedforward.down", f"{theirs}.output.dense")
        yield from norm(f"{ours}.feedforward_norm", f"{theirs}.layernorm_after")


def _positions(table: Tensor, *tokens: Tensor) -> Tensor:
    """The table (1, positions, width) with the tokens (1, 1, width) that stand at its beginning."""
    positions = table[0].clone()
    positions[: len(tokens)] += torch.cat([token[0] for token in tokens])
    return positions


def _trocr_weights(dims: Dims, stack: StackDims) -> Iterator[WeightMapping]:
    yield WeightMapping(target="embedding.weight", sources=(f"{TROCR}.embed_tokens.weight",))
    if not dims.tied:
        yield from linear("lm_head", "decoder.output_projection", bias=False)
    yield WeightMapping(
        target="decoder.positions.weight",
        sources=(f"{TROCR}.embed_positions.weight",),
        skip_rows=OFFSET,
        default=functools.partial(made_positions, tensor2tensor_table, stack, dims.width)
        if stack.positions == "sinusoidal"
        else None,
    )
    if stack.embedding_norm:
        yield from norm("decoder.embedding_norm", f"{TROCR}.layernorm_embedding")
    for i in range(stack.layers):
        yield from layer_weights(f"decoder.layers.{i}", f"{TROCR}.layers.{i}", cross=True)


VISION_ENCODER_DECODER = Family(
    name="vision-encoder-decoder",
    architectures=("VisionEncoderDecoderModel",),
    dims=_dims,
    weights=_weights,
    aliases={
        f"{TROCR}.embed_tokens.weight": ("decoder.output_projection.weight",),
        f"{GPT2}wte.weight": ("decoder.lm_head.weight",),
    },
    ignored=(
        r"decoder\.model\.decoder\.embed_positions\._float_tensor",
        r"decoder\.transformer\.h\.\d+\.(attn|crossattention)\.(bias|masked_bias)",  # causal masks
    ),
    unused=(r"encoder\.pooler\..*", r"encoder\.embeddings\.mask_token"),
)
