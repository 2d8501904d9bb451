"""The families that share BART's layout: BART, mBART, Marian, Pegasus, M2M100 and NLLB, Blenderbot.

Sources: Lewis et al. 2020, Liu et al. 2020, Junczys-Dowmunt et al. 2018, Zhang et al. 2020,
Fan et al. 2021, Roller et al. 2021.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from seq2edge.checkpoints.families.family import Config, Family, Names, WeightMapping, linear, norm
from seq2edge.errors import CheckpointError, UnsupportedError
from seq2edge.model.dims import Dims, StackDims
from seq2edge.model.positions import sinusoidal_table

EMBEDDINGS = ("model.shared.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How the members differ."""

    pre_norm: bool
    final_norm: bool
    embedding_norm: bool
    positions: str
    logits_bias: bool
    skip_positions: int = 0
    padded_positions: bool = False  # the first token stands at the padding id + 1
    make_positions: Callable[[int, int], Tensor] | None = None
    epsilon: float = 1e-5
    activation: str = "gelu"  # where a config names none
    scaled: bool = False  # embeddings, where it does not say


def stack_dims(config: Config, layout: Layout, side: str, positions: int) -> StackDims:
    """One side's sizes; also Whisper's."""
    width, heads = config.size("d_model"), config.size(f"{side}_attention_heads")
    return StackDims(
        layers=config.size(f"{side}_layers"),
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        hidden=config.size(f"{side}_ffn_dim"),
        activation=config.activation("activation_function", layout.activation),
        norm_epsilon=layout.epsilon,
        pre_norm=layout.pre_norm,
        final_norm=layout.final_norm,
        embedding_norm=layout.embedding_norm,
        positions=layout.positions,
        max_positions=positions,
        position_offset=padded_offset(config) if layout.padded_positions else 0,
        embedding_scale=math.sqrt(width) if config.get("scale_embedding", layout.scaled) else 1.0,
        attention_scale=(width // heads) ** -0.5,
    )


def padded_offset(config: Config) -> int:
    """Where the first token stands in families that count positions from the padding id on.

    A padding token has no place there; one that sequences begin with is refused.
    """
    pad = config.get("pad_token_id", 1)
    if not isinstance(pad, int) or pad < 0:
        raise CheckpointError(f"config.json: pad_token_id is {pad!r}, positions count from it")
    if config.get("decoder_start_token_id") == pad:
        raise UnsupportedError(
            f"config.json: decoder_start_token_id {pad} is the pad_token_id too, and padding has "
            "no position: not supported"
        )
    return pad + 1


def _dims(layout: Layout, config: Config, names: Names) -> Dims:
    """The sizes that a config.json says, for encoder and decoder alike."""
    config.require("normalize_before", layout.pre_norm)
    config.require("normalize_embedding", layout.embedding_norm)
    config.require("add_final_layer_norm", layout.final_norm)
    config.require("add_bias_logits", False)
    config.require("static_position_embeddings", layout.positions == "sinusoidal")
    config.require("extra_layer_norm", False)
    for name in ("layernorm_variant", "variant"):
        config.require(name, "prelayernorm" if layout.pre_norm else "xlm")
    config.ignore("num_hidden_layers", "extra_pos_embeddings", "do_blenderbot_90_layernorm")
    positions = config.size("max_position_embeddings")
    tied = config.get("tie_word_embeddings", True) is True
    shared = config.get("share_encoder_decoder_embeddings", True) is True
    split = "model.encoder.embed_tokens.weight" in names and not (tied and shared)
    vocab = config.size("vocab_size")
    target_vocab = config.size("decoder_vocab_size", vocab)
    return Dims(
        width=config.size("d_model"),
        vocab=vocab if shared or not split else target_vocab,
        source_vocab=vocab if split else 0,
        tied=tied,
        encoder=stack_dims(config, layout, "encoder", positions),
        decoder=stack_dims(config, layout, "decoder", positions),
        logits_bias=layout.logits_bias and "final_logits_bias" in names,
    )


def layer_weights(
    ours: str, theirs: str, *, cross: bool, key_bias: bool = True, recurrent: bool = False
) -> Iterator[WeightMapping]:
    """One encoder or decoder layer; also Whisper's, whose keys have no bias."""

    def merged(target: str, attention: str, parts: str) -> Iterator[WeightMapping]:
        sources = [f"{theirs}.{attention}.{part}_proj" for part in parts]
        yield WeightMapping(
            target=f"{target}.weight", sources=tuple(f"{s}.weight" for s in sources)
        )
        biases = (
            f"{s}.bias" if key_bias or p != "k" else None
            for s, p in zip(sources, parts, strict=True)
        )
        yield WeightMapping(target=f"{target}.bias", sources=tuple(biases))

    if recurrent:
        gates = [f"{theirs}.recurrence.{gate}" for gate in ("keep", "put")]
        weights, biases = tuple(f"{gate}.weight" for gate in gates), (f"{gates[0]}.bias", None)
        yield WeightMapping(target=f"{ours}.recurrence.gates.weight", sources=weights)
        yield WeightMapping(target=f"{ours}.recurrence.gates.bias", sources=biases)
    else:
        yield from merged(f"{ours}.attention.qkv", "self_attn", "qkv")
        yield from linear(f"{ours}.attention.out", f"{theirs}.self_attn.out_proj")
    yield from norm(f"{ours}.attention_norm", f"{theirs}.self_attn_layer_norm")
    if cross:
        yield from merged(f"{ours}.cross.query", "encoder_attn", "q")
        yield from merged(f"{ours}.cross.key_value", "encoder_attn", "kv")
        yield from linear(f"{ours}.cross.out", f"{theirs}.encoder_attn.out_proj")
        yield from norm(f"{ours}.cross_norm", f"{theirs}.encoder_attn_layer_norm")
    yield from linear(f"{ours}.feedforward.up", f"{theirs}.fc1")
    yield from linear(f"{ours}.feedforward.down", f"{theirs}.fc2")
    yield from norm(f"{ours}.feedforward_norm", f"{theirs}.final_layer_norm")


def _weights(layout: Layout, dims: Dims, names: Names) -> Iterator[WeightMapping]:
    """Every parameter that these dims have, and the tensors it is made of."""
    embedding = next((name for name in EMBEDDINGS if name in names), EMBEDDINGS[0])
    if dims.source_vocab:
        embedding = "model.decoder.embed_tokens.weight"
        yield WeightMapping(
            target="source_embedding.weight", sources=("model.encoder.embed_tokens.weight",)
        )
    yield WeightMapping(target="embedding.weight", sources=(embedding,))
    if not dims.tied:
        yield from linear("lm_head", "lm_head", bias=False)
    for side, stack in (("encoder", dims.encoder), ("decoder", dims.decoder)):
        assert stack is not None
        yield _positions(layout, stack, dims.width, side)
        if layout.embedding_norm:
            yield from norm(f"{side}.embedding_norm", f"model.{side}.layernorm_embedding")
        if layout.final_norm:
            yield from norm(f"{side}.final_norm", f"model.{side}.layer_norm")
        for i, mixer in enumerate(stack.layer_mixers):
            yield from layer_weights(
                f"{side}.layers.{i}",
                f"model.{side}.layers.{i}",
                cross=side == "decoder",
                recurrent=mixer == "recurrence",
            )
    if dims.logits_bias:
        yield WeightMapping(target="logits_bias", sources=("final_logits_bias",))


def _positions(layout: Layout, stack: StackDims, width: int, side: str) -> WeightMapping:
    default = None
    if layout.make_positions is not None:
        default = functools.partial(made_positions, layout.make_positions, stack, width)
    return WeightMapping(
        target=f"{side}.positions.weight",
        sources=(f"model.{side}.embed_positions.weight",),
        skip_rows=layout.skip_positions,
        default=default,
    )


def made_positions(table: Callable[[int, int], Tensor], stack: StackDims, width: int) -> Tensor:
    """The rows of a table that tokens have, from the first token's on."""
    return table(stack.position_offset + stack.max_positions, width)[stack.position_offset :]


def tensor2tensor_table(positions: int, width: int) -> Tensor:
    """M2M100's and TrOCR's table, in the spacing of tensor2tensor."""
    half = width // 2
    step = torch.exp(torch.arange(half).float() * -(math.log(10000) / (half - 1)))
    angle = torch.arange(positions).float()[:, None] * step[None]
    table = torch.cat((angle.sin(), angle.cos()), dim=1)
    return torch.nn.functional.pad(table, (0, width - 2 * half))


def _blenderbot_small_dims(layout: Layout, config: Config, names: Names) -> Dims:
    """Its decoder normalises embedded tokens before they are placed, and does not scale them."""
    dims = _dims(layout, config, names)
    assert dims.decoder is not None
    decoder = dataclasses.replace(dims.decoder, embedding_scale=1.0, norm_before_positions=True)
    return dataclasses.replace(dims, decoder=decoder)


def _bergamot_dims(layout: Layout, config: Config, names: Names) -> Dims:
    """Students whose decoder has recurrences in the place of self-attention."""
    dims = _dims(layout, config, names)
    assert dims.decoder is not None
    mixer = "recurrence" if config.get("recurrent") else "attention"
    decoder = dataclasses.replace(dims.decoder, mixers=(mixer,) * dims.decoder.layers)
    return dataclasses.replace(dims, decoder=decoder)


def _family(
    name: str,
    architecture: str,
    layout: Layout,
    dims: Callable[[Layout, Config, Names], Dims] = _dims,
) -> Family:
    """The registry's row of a family that differs from BART by its layout."""
    return Family(
        name=name,
        architectures=(architecture,),
        dims=functools.partial(dims, layout),
        weights=functools.partial(_weights, layout),
        aliases={
            "model.shared.weight": (
                "model.encoder.embed_tokens.weight",
                "model.decoder.embed_tokens.weight",
                "lm_head.weight",
            ),
            "model.decoder.embed_tokens.weight": ("lm_head.weight",),
        },
        unused=(r"model\.shared\.weight",),  # where both sides have tables of their own
    )


BART = _family(
    "bart",
    "BartForConditionalGeneration",
    Layout(
        pre_norm=False,
        final_norm=False,
        embedding_norm=True,
        positions="learned",
        logits_bias=True,
        skip_positions=2,
    ),
)
MBART = _family(
    "mbart",
    "MBartForConditionalGeneration",
    Layout(
        pre_norm=True,
        final_norm=True,
        embedding_norm=True,
        positions="learned",
        logits_bias=True,
        skip_positions=2,
    ),
)
MARIAN = _family(
    "marian",
    "MarianMTModel",
    Layout(
        pre_norm=False,
        final_norm=False,
        embedding_norm=False,
        positions="sinusoidal",
        logits_bias=True,
        make_positions=sinusoidal_table,
    ),
)
BERGAMOT = dataclasses.replace(
    _family(
        "bergamot",
        "",
        Layout(
            pre_norm=False,
            final_norm=False,
            embedding_norm=False,
            positions="sinusoidal",
            logits_bias=True,
            make_positions=tensor2tensor_table,
            epsilon=1e-9,
        ),
        _bergamot_dims,
    ),
    architectures=(),  # Marian's own files name none
)
PEGASUS = _family(
    "pegasus",
    "PegasusForConditionalGeneration",
    Layout(
        pre_norm=True,
        final_norm=True,
        embedding_norm=False,
        positions="sinusoidal",
        logits_bias=True,
        make_positions=sinusoidal_table,
    ),
)
M2M100 = _family(
    "m2m100",
    "M2M100ForConditionalGeneration",
    Layout(
        pre_norm=True,
        final_norm=True,
        embedding_norm=False,
        positions="sinusoidal",
        logits_bias=False,
        padded_positions=True,
        activation="relu",
        scaled=True,
        make_positions=tensor2tensor_table,
    ),
)
BLENDERBOT = _family(
    "blenderbot",
    "BlenderbotForConditionalGeneration",
    Layout(
        pre_norm=True, final_norm=True, embedding_norm=False, positions="learned", logits_bias=True
    ),
)
BLENDERBOT_SMALL = _family(
    "blenderbot-small",
    "BlenderbotSmallForConditionalGeneration",
    Layout(
        pre_norm=False, final_norm=False, embedding_norm=True, positions="learned", logits_bias=True
    ),
    _blenderbot_small_dims,
)
