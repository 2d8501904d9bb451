"""GPT-2 (Radford et al. 2019)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from seq2edge.checkpoints.families.family import (
    HEAD_TASKS,
    Config,
    Family,
    Names,
    WeightMapping,
    decoder_task,
    norm,
)
from seq2edge.checkpoints.families.heads import Heads, head_dims, head_weights
from seq2edge.model.dims import Dims, StackDims

HEADS = Heads(classifier=("score",))


def decoder_stack(config: Config) -> StackDims:
    """The layers that a config says; also those that caption images."""
    config.require("scale_attn_by_inverse_layer_idx", False)
    config.require("scale_attn_weights", True)
    config.require("tie_word_embeddings", True)
    config.ignore("reorder_and_upcast_attn", "n_ctx")  # the same result in float32
    width, heads = config.size("n_embd"), config.size("n_head")
    return StackDims(
        layers=config.size("n_layer"),
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        hidden=config.size("n_inner", 4 * width),
        activation=config.activation("activation_function", "gelu_new"),
        norm_epsilon=float(config.get("layer_norm_epsilon", 1e-5)),
        positions="learned",
        max_positions=config.size("n_positions", 1024),
        attention_scale=(width // heads) ** -0.5,
    )


def _dims(config: Config, names: Names) -> Dims:
    """The sizes that a config.json says."""
    del names
    stack, width = decoder_stack(config), config.size("n_embd")
    task, vocab = decoder_task(config), config.size("vocab_size")
    if task == "generate":
        return Dims(width=width, vocab=vocab, decoder=stack)
    return Dims(
        width=width,
        vocab=vocab,
        encoder=dataclasses.replace(stack, causal=True),
        tied=False,
        **head_dims(HEADS, config, task, classifier_pooling="last", pooling="last"),
    )


def _convolution(target: str, source: str) -> Iterator[WeightMapping]:
    """GPT-2 keeps its linear weights as (in, out)."""
    yield WeightMapping(target=f"{target}.weight", sources=(f"{source}.weight",), transpose=True)
    yield WeightMapping(target=f"{target}.bias", sources=(f"{source}.bias",))


def _weights(dims: Dims, names: Names) -> Iterator[WeightMapping]:
    """Every parameter, and the tensor it is."""
    stack = dims.decoder or dims.encoder
    assert stack is not None
    prefix = "transformer." if "transformer.wte.weight" in names else ""
    side = "encoder" if dims.decoder is None else "decoder"
    yield from layer_weights(side, stack, prefix)
    yield from head_weights(HEADS, dims, names)


def layer_weights(
    side: str, stack: StackDims, prefix: str, *, cross: bool = False
) -> Iterator[WeightMapping]:
    """Embedding and layers below a prefix; with `cross` they attend to an encoder.

    GPT-2 stores its products transposed.
    """
    yield WeightMapping(target="embedding.weight", sources=(f"{prefix}wte.weight",))
    yield WeightMapping(target=f"{side}.positions.weight", sources=(f"{prefix}wpe.weight",))
    yield from norm(f"{side}.final_norm", f"{prefix}ln_f")
    for i in range(stack.layers):
        ours, theirs = f"{side}.layers.{i}", f"{prefix}h.{i}"
        yield from _convolution(f"{ours}.attention.qkv", f"{theirs}.attn.c_attn")
        yield from _convolution(f"{ours}.attention.out", f"{theirs}.attn.c_proj")
        yield from norm(f"{ours}.attention_norm", f"{theirs}.ln_1")
        if cross:
            yield from _convolution(f"{ours}.cross.query", f"{theirs}.crossattention.q_attn")
            yield from _convolution(f"{ours}.cross.key_value", f"{theirs}.crossattention.c_attn")
            yield from _convolution(f"{ours}.cross.out", f"{theirs}.crossattention.c_proj")
            yield from norm(f"{ours}.cross_norm", f"{theirs}.ln_cross_attn")
        yield from _convolution(f"{ours}.feedforward.up", f"{theirs}.mlp.c_fc")
        yield from _convolution(f"{ours}.feedforward.down", f"{theirs}.mlp.c_proj")
        yield from norm(f"{ours}.feedforward_norm", f"{theirs}.ln_2")


GPT2 = Family(
    name="gpt2",
    architectures=(
        "GPT2LMHeadModel",
        "GPT2Model",
        *(f"GPT2{end}" for end, task in HEAD_TASKS.items() if task != "fill"),
    ),
    dims=_dims,
    weights=_weights,
    aliases={
        "transformer.wte.weight": ("lm_head.weight",),
        "wte.weight": ("lm_head.weight",),
    },
    unused=(r"lm_head\.weight",),
    ignored=(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",),  # causal masks
)
