"""BERT, RoBERTa, XLM-R and DistilBERT as classifiers and as sentence encoders.

Sources: Devlin et al. 2019, Liu et al. 2019, Sanh et al. 2019, Reimers and Gurevych 2019.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

from seq2edge.checkpoints.families.bart import padded_offset
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
from seq2edge.model.dims import Dims, StackDims


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where one member keeps its parts; `{}` is the layer."""

    prefix: str
    layer: str
    qkv: tuple[str, ...]
    out: str
    attention_norm: str
    up: str
    down: str
    feedforward_norm: str
    heads: Heads
    activation: str = "gelu"  # where a config names none
    padded_positions: bool = False  # the first token stands at the padding id + 1
    widen: str = ""  # the product behind narrow embeddings, in families that may have them
    shared_layers: bool = False  # one layer's weights serve all
    relative_buckets: int = 0  # of a bias that all layers share, as T5's


def _activation(layout: Layout, config: Config) -> str:
    return config.activation("hidden_act", config.get("activation", layout.activation))


def bert_dims(layout: Layout, config: Config, names: Names) -> Dims:
    """The sizes that a config.json says, in the names of this layout."""
    config.require("position_embedding_type", "absolute")
    config.require("is_decoder", False)  # causal attention
    config.ignore(
        "sinusoidal_pos_embds",
        "pooling",
        "normalize",
        "tie_word_embeddings",
        "tie_weights_",
    )
    offset = padded_offset(config) if layout.padded_positions else 0
    get = _renamed(config)
    width, heads = get("hidden_size", "dim"), get("num_attention_heads", "n_heads")
    positions = config.size("max_position_embeddings", 512) - offset
    stack = StackDims(
        layers=get("num_hidden_layers", "n_layers"),
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        hidden=get("intermediate_size", "hidden_dim"),
        activation=_activation(layout, config),
        norm_epsilon=float(config.get("layer_norm_eps", 1e-12)),
        pre_norm=False,
        final_norm=False,
        embedding_norm=True,
        max_positions=positions,
        position_offset=offset,
        relative_buckets=layout.relative_buckets,
        relative_distance=128 if layout.relative_buckets else 0,
        shared_layers=layout.shared_layers,
        attention_scale=(width // heads) ** -0.5,
    )
    prefix = prefix_of(layout, names)
    head = head_dims(layout.heads, config, encoder_task(config), activation=stack.activation)
    narrow = config.size("embedding_size", 128) if layout.widen else 0
    types = f"{prefix}embeddings.token_type_embeddings.weight" in names
    return Dims(
        width=width,
        vocab=config.size("vocab_size"),
        encoder=stack,
        table_width=narrow if f"{prefix}{layout.widen}.weight" in names else 0,
        token_types=config.size("type_vocab_size", 2) if types else 0,
        **{"tied": False, **head},
    )


def _renamed(config: Config) -> functools.partial[int]:
    """DistilBERT has its own names for sizes."""

    def size(name: str, other: str) -> int:
        value = config.get(other)
        return config.size(other) if value is not None else config.size(name)

    return functools.partial(size)


def prefix_of(layout: Layout, names: Names) -> str:
    """What all names of the encoder begin with; nothing in a bare encoder's file."""
    return layout.prefix if any(name.startswith(layout.prefix) for name in names) else ""


def bert_weights(layout: Layout, dims: Dims, names: Names) -> Iterator[WeightMapping]:
    """Every parameter that these dims have, and the tensors it is made of."""
    prefix = prefix_of(layout, names)
    stack = dims.encoder
    assert stack is not None
    for ours, theirs in (("embedding", "word"), ("token_types", "token_type")):
        if ours == "embedding" or dims.token_types:
            source = f"{prefix}embeddings.{theirs}_embeddings.weight"
            yield WeightMapping(target=f"{ours}.weight", sources=(source,))
    if stack.positions == "learned":
        yield WeightMapping(
            target="encoder.positions.weight",
            sources=(f"{prefix}embeddings.position_embeddings.weight",),
            skip_rows=stack.position_offset,
        )
    yield from norm("encoder.embedding_norm", f"{prefix}embeddings.LayerNorm", names)
    if dims.table_width:
        yield from linear("encoder.widen", f"{prefix}{layout.widen}")
    if stack.relative_buckets:
        bias = f"{prefix}encoder.relative_attention_bias.weight"
        yield WeightMapping(target="encoder.relative.weight", sources=(bias,))
    for i in range(1 if stack.shared_layers else stack.layers):
        yield from _layer(f"encoder.layers.{i}", prefix + layout.layer.format(i), layout, names)
    yield from head_weights(layout.heads, dims, names, prefix)


def _layer(ours: str, theirs: str, layout: Layout, names: Names) -> Iterator[WeightMapping]:
    yield from linear(f"{ours}.attention.qkv", *(f"{theirs}.{part}" for part in layout.qkv))
    yield from linear(f"{ours}.attention.out", f"{theirs}.{layout.out}")
    yield from norm(f"{ours}.attention_norm", f"{theirs}.{layout.attention_norm}", names)
    yield from linear(f"{ours}.feedforward.up", f"{theirs}.{layout.up}")
    yield from linear(f"{ours}.feedforward.down", f"{theirs}.{layout.down}")
    yield from norm(f"{ours}.feedforward_norm", f"{theirs}.{layout.feedforward_norm}", names)


def bert_family(
    name: str,
    model: str,
    layout: Layout,
    dims: Callable[[Layout, Config, Names], Dims] = bert_dims,
) -> Family:
    """The registry's row of a family that has BERT's layout or one like it."""
    return Family(
        name=name,
        architectures=tuple(f"{model}{end}" for end in ("Model", "ForPreTraining", *HEAD_TASKS)),
        dims=functools.partial(dims, layout),
        weights=functools.partial(bert_weights, layout),
        ignored=(r"(.*\.)?embeddings\.(position_ids|token_type_ids)",),
        # A pooler that the pooling does not use; heads of masked-language pretraining.
        unused=(
            r"(.*\.)?pooler\..*",
            r"cls\..*",
            r"(lm_head|lm_predictions|mask_predictions)\..*",
            r"vocab_\w+\..*",
            r"((discriminator|generator)_)?predictions\..*",
            r"(generator_lm_head|sop_classifier)\..*",
        ),
    )


BERT_LAYOUT = Layout(
    prefix="bert.",
    layer="encoder.layer.{}",
    qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
    out="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    feedforward_norm="output.LayerNorm",
    heads=Heads(
        classifier=("{}pooler.dense", "classifier"),
        classifier_activation="tanh",
        masked=(
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            "cls.predictions",
            "cls.predictions.decoder",
        ),
    ),
)
BERT = bert_family("bert", "Bert", BERT_LAYOUT)
_ROBERTA = dataclasses.replace(
    BERT_LAYOUT,
    prefix="roberta.",
    padded_positions=True,
    heads=Heads(
        classifier=("classifier.dense", "classifier.out_proj"),
        classifier_activation="tanh",
        masked=("lm_head.dense", "lm_head.layer_norm", "lm_head", "lm_head.decoder"),
        masked_activation="gelu",
    ),
)
ROBERTA = bert_family("roberta", "Roberta", _ROBERTA)
XLM_ROBERTA = bert_family("xlm-roberta", "XLMRoberta", _ROBERTA)
CAMEMBERT = bert_family("camembert", "Camembert", _ROBERTA)
DISTILBERT = bert_family(
    "distilbert",
    "DistilBert",
    Layout(
        prefix="distilbert.",
        layer="transformer.layer.{}",
        qkv=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        out="attention.out_lin",
        attention_norm="sa_layer_norm",
        up="ffn.lin1",
        down="ffn.lin2",
        feedforward_norm="output_layer_norm",
        heads=Heads(
            classifier=("pre_classifier", "classifier"),
            classifier_activation="relu",
            masked=("vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector"),
        ),
    ),
)
