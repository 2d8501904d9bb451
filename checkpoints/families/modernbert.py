"""ModernBERT and EuroBERT: rotary encoders, as classifiers and as sentence encoders.

Sources: Warner et al. 2024, Boizard et al. 2025.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

from seq2edge.checkpoints.families.family import (
    HEAD_TASKS,
    Config,
    Family,
    Names,
    WeightMapping,
    encoder_task,
    linear,
    norm,
)
from seq2edge.checkpoints.families.heads import Heads, head_dims, head_weights
from seq2edge.checkpoints.families.llama import Traits, family_weights, stack_dims
from seq2edge.checkpoints.families.rotary import WINDOWED, read_rotary
from seq2edge.errors import UnsupportedError
from seq2edge.model.dims import Dims, StackDims

POOLINGS = {"cls": "first", "bos": "first", "mean": "mean"}


_MODERNBERT_HEADS = Heads(
    classifier=("head.dense", "classifier"),
    classifier_norm="head.norm",
    token_dense=True,
    span="classifier",
    masked=("head.dense", "head.norm", "decoder", "decoder"),
)
_EUROBERT_HEADS = Heads(
    classifier=("dense", "classifier"),
    classifier_activation="gelu",
    masked=("lm_head", "lm_head"),
)


def _pooling(task: str, name: str) -> str:
    """How a classifier sums up its positions; of other heads nobody asks."""
    if task == "classify" and name not in POOLINGS:
        raise UnsupportedError(
            f"config.json: classifier_pooling {name!r} is not supported, "
            f"known: {', '.join(POOLINGS)}"
        )
    return POOLINGS.get(name, "mean")


def _modernbert_windows(config: Config, layers: int) -> tuple[int, ...]:
    """Half the tokens of `local_attention` on either side, and the token itself."""
    every = config.size("global_attn_every_n_layers", 3)
    kinds = config.get("layer_types") or [
        WINDOWED if i % every else "full_attention" for i in range(layers)
    ]
    window = config.size("local_attention", 128) // 2 + 1
    return tuple(window if kind == WINDOWED else 0 for kind in kinds)


def _modernbert_dims(config: Config, names: Names) -> Dims:
    """The sizes that a config.json says."""
    del names
    config.require("position_embedding_type", "absolute")  # of its first configs, never read
    config.require("rope_scaling")
    config.ignore(
        "deterministic_flash_attn",
        "embedding_dropout",
        "initializer_cutoff_factor",
        "layer_norm_eps",
        "mlp_dropout",
        "num_labels",
        "reference_compile",
        "repad_logits_with_grad",
        "sparse_pred_ignore_index",
        "sparse_prediction",
        "tie_word_embeddings",
        "decoder_bias",
    )
    width, heads = config.size("hidden_size"), config.size("num_attention_heads")
    layers, head_dim = config.size("num_hidden_layers"), width // heads
    theta = float(config.get("global_rope_theta", 160000.0))
    bias = bool(config.get("attention_bias", False))
    stack = StackDims(
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        hidden=config.size("intermediate_size"),
        activation=config.activation("hidden_activation", "gelu"),
        gated=True,
        norm_epsilon=float(config.get("norm_eps", 1e-5)),
        norm_bias=bool(config.get("norm_bias", False)),
        first_norm=False,
        embedding_norm=True,
        attention_scale=head_dim**-0.5,
        qkv_bias=bias,
        attention_bias=bias,
        feedforward_bias=bool(config.get("mlp_bias", False)),
        windows=_modernbert_windows(config, layers),
        **read_rotary(
            config,
            head_dim=head_dim,
            theta=theta,
            window_theta=float(config.get("local_rope_theta", 10000.0)),
        ),
    )
    task = encoder_task(config)
    act = config.activation("classifier_activation", "gelu")
    places = dataclasses.replace(
        _MODERNBERT_HEADS,
        classifier_activation=act,
        masked_activation=act,
    )
    pooling = _pooling(task, config.get("classifier_pooling", "cls"))
    head = head_dims(places, config, task, classifier_pooling=pooling)
    if task in ("fill", "weigh"):
        head["logits_bias"] = bool(config.get("decoder_bias", True))
    return Dims(
        width=width,
        vocab=config.size("vocab_size"),
        encoder=stack,
        classifier_bias=bool(config.get("classifier_bias", False)),
        **{"tied": False, **head},
    )


def _modernbert_weights(dims: Dims, names: Names) -> Iterator[WeightMapping]:
    """Every parameter that these dims have, and the tensors it is made of."""
    stack = dims.encoder
    assert stack is not None
    prefix = "model." if any(name.startswith("model.") for name in names) else ""
    norm_ = functools.partial(norm, bias=stack.norm_bias)
    embeddings = f"{prefix}embeddings"
    yield WeightMapping(target="embedding.weight", sources=(f"{embeddings}.tok_embeddings.weight",))
    yield from norm_("encoder.embedding_norm", f"{embeddings}.norm")
    yield from norm_("encoder.final_norm", f"{prefix}final_norm")
    for i in range(stack.layers):
        ours, theirs = f"encoder.layers.{i}", f"{prefix}layers.{i}"
        yield from linear(f"{ours}.attention.qkv", f"{theirs}.attn.Wqkv", bias=stack.qkv_bias)
        yield from linear(f"{ours}.attention.out", f"{theirs}.attn.Wo", bias=stack.attention_bias)
        if i:
            yield from norm_(f"{ours}.attention_norm", f"{theirs}.attn_norm")
        bias = stack.feedforward_bias
        yield from linear(f"{ours}.feedforward.up", f"{theirs}.mlp.Wi", bias=bias)
        yield from linear(f"{ours}.feedforward.down", f"{theirs}.mlp.Wo", bias=bias)
        yield from norm_(f"{ours}.feedforward_norm", f"{theirs}.mlp_norm")
    yield from head_weights(_MODERNBERT_HEADS, dims, names)


_LLAMA = Traits(epsilon=("rms_norm_eps", 1e-5), heads=_EUROBERT_HEADS)


def _eurobert_dims(config: Config, names: Names) -> Dims:
    """The sizes that a config.json says."""
    del names
    config.ignore(
        "bos_token", "eos_token", "pad_token", "mask_token", "mask_token_id", "num_labels"
    )
    config.ignore("tie_word_embeddings")
    task, named = encoder_task(config), config.get("clf_pooling", "late")
    named = config.get("classifier_pooling", named)
    pooling = _pooling(task, "mean" if named == "late" else named)
    head = head_dims(_EUROBERT_HEADS, config, task, classifier_pooling=pooling)
    if task == "classify":
        head["late_pooling"] = named == "late"
    elif task in ("fill", "weigh"):
        head |= {"tied": bool(config.get("tie_word_embeddings", False))}
        head |= {"logits_bias": bool(config.get("mlp_bias", False))}
    return Dims(
        width=config.size("hidden_size"),
        vocab=config.size("vocab_size"),
        encoder=stack_dims(_LLAMA, config),
        **{"tied": False, **head},
    )


def _eurobert_weights(dims: Dims, names: Names) -> Iterator[WeightMapping]:
    """Every parameter that these dims have, and the tensors it is made of."""
    yield from family_weights(_LLAMA, dims, names)


# Heads of masked-language pretraining.
MODERNBERT = Family(
    name="modernbert",
    architectures=("ModernBertModel", *(f"ModernBert{end}" for end in HEAD_TASKS)),
    dims=_modernbert_dims,
    weights=_modernbert_weights,
    unused=(r"head\..*", r"decoder\..*"),
)
EUROBERT = Family(
    name="eurobert",
    architectures=(
        "EuroBertModel",
        *(f"EuroBert{end}" for end, task in HEAD_TASKS.items() if task != "answer"),
    ),
    dims=_eurobert_dims,
    weights=_eurobert_weights,
    unused=(r"lm_head\..*",),
)
