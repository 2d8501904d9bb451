"""Llama and its relatives: rotary decoders, told apart by their traits.

Sources: Touvron et al. 2023 (Llama), Jiang et al. 2023 (Mistral), Yang et al. 2024, 2025 (Qwen),
Abdin et al. 2024 (Phi-3), Mishra et al. 2024 (Granite), Lozhkov et al. 2024 (StarCoder2),
Bellagente et al. 2024 (StableLM), OLMo team 2024, 2025; SmolLM3 and Ministral have no paper.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from seq2edge.checkpoints.families.family import (
    HEAD_TASKS,
    Config,
    Family,
    Names,
    WeightMapping,
    decoder_task,
    linear,
    norm,
)
from seq2edge.checkpoints.families.heads import Heads, head_dims, head_weights
from seq2edge.checkpoints.families.rotary import FULL, WINDOWED, read_rotary
from seq2edge.errors import CheckpointError, UnsupportedError
from seq2edge.model.dims import Dims, StackDims

# Where norms stand, by our names and theirs: before attention and feed-forward, behind them, both.
BEFORE = {"attention_norm": "input_layernorm", "feedforward_norm": "post_attention_layernorm"}
BEHIND = {
    "attention_output_norm": "post_attention_layernorm",
    "feedforward_output_norm": "post_feedforward_layernorm",
}
AROUND = {
    "attention_norm": "input_layernorm",
    "feedforward_norm": "pre_feedforward_layernorm",
    **BEHIND,
}
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
HEADS = Heads(classifier=("score",), tokens="score")
CLASSES, TOKENS, SPAN = (end for end, task in HEAD_TASKS.items() if task != "fill")
GATE_UP = ("mlp.gate_proj", "mlp.up_proj")
Scales = Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traits:
    """What one family has that its configs do not say."""

    keys: Mapping[str, str] = dataclasses.field(default_factory=dict)  # its names of Llama's keys
    theta: float = 10000.0  # base of the rotary frequencies where the config says none
    part: float | None = None  # of each head that is rotated, where it says none; None: always all
    original: int | None = None  # positions of pretraining, where the config does not say
    window_theta: Callable[[Config], float] | None = None  # of layers with a window, if another
    # Biases of queries, keys and values, of the product behind the heads, and of the feed-forward:
    # the config's switch, or what is always so.
    biases: tuple[str | bool, str | bool, str | bool] = (
        "attention_bias",
        "attention_bias",
        "mlp_bias",
    )
    biased: bool = False  # whether there are, where the config lacks the switch
    activation: Callable[[Config], str] = lambda config: config.activation("hidden_act", "silu")
    epsilon: tuple[str, float] = ("rms_norm_eps", 1e-6)  # key and default
    norm: str = "rms"
    norms: Mapping[str, str] = dataclasses.field(default_factory=lambda: BEFORE)
    norm_transform: Callable[[Tensor], Tensor] | None = None  # of every norm's weight
    parallel: Callable[[Config], bool] = lambda _config: False  # attention beside feed-forward
    qk_norm: str = ""  # of each head (`head`), of all together (`whole`)
    embedding: str = "model.embed_tokens"
    layers: str = "model.layers"
    final_norm: str = "model.norm"
    head: str = "lm_head"
    head_bias: bool = False
    heads: Heads = HEADS
    qkv: tuple[str, ...] = QKV
    qkv_transform: Callable[[StackDims, Tensor], Tensor] | None = None
    out: str = "self_attn.o_proj"
    up: tuple[str, ...] = GATE_UP
    down: str = "mlp.down_proj"
    gated: bool = True
    kv_heads: Callable[[Config, int], int] = lambda config, heads: config.size(
        "num_key_value_heads", heads
    )
    hidden: Callable[[Config], int] = lambda config: config.size("intermediate_size")
    # Which layers have a window where the config does not list them.
    windowed: Callable[[Config, int], bool] | None = None
    switched: bool = False  # windows need `use_sliding_window`
    # The layers that are not rotated.
    unrotated: Callable[[Config, int], tuple[int, ...]] = lambda _config, _layers: ()
    scales: Callable[[Config, int], Scales] = lambda _config, head_dim: {
        "attention_scale": head_dim**-0.5
    }
    required: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # keys with one value


def _windows(
    config: Config, layers: int, traits: Traits, *, limit: int
) -> dict[str, int | tuple[int, ...]]:
    """The fields of `StackDims` about windows; one of `limit` tokens hides nothing."""
    if traits.windowed is None:
        config.require("sliding_window")
        return {}
    window = config.get("sliding_window") or 0
    used = bool(config.get("use_sliding_window", False)) if traits.switched else True
    chosen = [WINDOWED if traits.windowed(config, i) else FULL for i in range(layers)]
    kinds = config.get("layer_types", chosen)
    if set(kinds) - {FULL, WINDOWED}:
        raise UnsupportedError(
            f"config.json: layer_types {', '.join(sorted(set(kinds)))} is not supported, "
            f"known: {FULL}, {WINDOWED}"
        )
    if len(kinds) != layers:
        raise CheckpointError(f"config.json: {len(kinds)} layer_types for {layers} layers")
    if not used or window >= limit:
        window = 0
    windows = tuple(window if kind == WINDOWED else 0 for kind in kinds)
    return {"windows": windows} if len(set(windows)) > 1 else {"window": windows[0]}


def stack_dims(traits: Traits, config: Config) -> StackDims:
    """The sizes that a config.json says of its layers."""
    config = config.renamed(traits.keys)
    width, heads = config.size("hidden_size"), config.size("num_attention_heads")
    layers = config.size("num_hidden_layers")
    head_dim = config.size("head_dim", width // heads)
    for key, value in traits.required.items():
        config.require(key, *(() if value is None else (value,)))
    config.ignore(
        "rope_interleaved",
        "is_llama_config",
        "max_window_layers",
        "cache_implementation",
        "residual_dropout",
        "embedding_dropout",
        "hidden_dropout",
    )
    biases = [
        bool(config.get(b, traits.biased)) if isinstance(b, str) else b for b in traits.biases
    ]
    fields = {field.name for field in dataclasses.fields(StackDims)}
    scales = {k: v for k, v in traits.scales(config, head_dim).items() if k in fields}
    rotary = read_rotary(
        config,
        head_dim=head_dim,
        theta=traits.theta,
        part=traits.part,
        original=traits.original,
        window_theta=traits.window_theta(config) if traits.window_theta is not None else 0.0,
    )
    # A window as long as the longest text hides nothing, but its layers may be rotated otherwise.
    limit = 1 << 62 if rotary.get("window_theta") else rotary["max_positions"]
    return StackDims(
        layers=layers,
        heads=heads,
        kv_heads=traits.kv_heads(config, heads),
        head_dim=head_dim,
        hidden=traits.hidden(config),
        activation=traits.activation(config),
        gated=traits.gated,
        norm=traits.norm,
        norm_epsilon=float(config.get(*traits.epsilon)),
        pre_norm="attention_norm" in traits.norms,
        output_norm="attention_output_norm" in traits.norms,
        parallel=traits.parallel(config),
        unrotated_layers=traits.unrotated(config, layers),
        qkv_bias=biases[0],
        attention_bias=biases[1],
        feedforward_bias=biases[2],
        qk_norm=bool(traits.qk_norm),
        qk_norm_whole=traits.qk_norm == "whole",
        **_windows(config, layers, traits, limit=limit),  # type: ignore[arg-type]
        **scales,  # type: ignore[arg-type]
        **rotary,
    )


def family_dims(traits: Traits, config: Config, names: Names) -> Dims:
    """The sizes that a config.json says."""
    stack = stack_dims(traits, config)
    config = config.renamed(traits.keys)
    task = decoder_task(config)
    if task != "generate":
        return text_dims(config, dataclasses.replace(stack, causal=True), task)
    tied = bool(config.get("tie_word_embeddings", f"{traits.head}.weight" not in names))
    scales = traits.scales(config, stack.head_dim)
    return Dims(
        width=config.size("hidden_size"),
        vocab=config.size("vocab_size"),
        decoder=stack,
        tied=tied,
        logits_bias=traits.head_bias,
        logits_scale=scales.get("logits_scale", 1.0),
        logits_cap=scales.get("logits_cap", 0.0),
    )


def text_dims(config: Config, stack: StackDims, task: str, pooling: str = "last") -> Dims:
    """Of a decoder's layers under a head for whole texts or each token, by default of the last's.

    `pooling` is of embeddings, where no folder says another.
    """
    config.ignore("num_labels", "tie_word_embeddings")
    return Dims(
        width=config.size("hidden_size"),
        vocab=config.size("vocab_size"),
        encoder=stack,
        tied=False,
        **head_dims(HEADS, config, task, classifier_pooling="last", pooling=pooling),
    )


def scaled_norm(target: str, source: str, traits: Traits) -> Iterator[WeightMapping]:
    """A norm's parameters, as this family keeps them."""
    for weight in norm(target, source, bias=traits.norm == "layer"):
        yield dataclasses.replace(weight, transform=traits.norm_transform)


def layer_weights(
    ours: str, theirs: str, stack: StackDims, traits: Traits
) -> Iterator[WeightMapping]:
    """One layer's parameters; queries, keys and values become one product, gate and up another."""
    products = {
        "attention.qkv": (traits.qkv, stack.qkv_bias),
        "attention.out": ((traits.out,), stack.attention_bias),
        "feedforward.up": (traits.up, stack.feedforward_bias),
        "feedforward.down": ((traits.down,), stack.feedforward_bias),
    }
    for target, (sources, bias) in products.items():
        parts = (f"{theirs}.{name}" for name in sources)
        for weight in linear(f"{ours}.{target}", *parts, bias=bias):
            if target == "attention.qkv" and traits.qkv_transform is not None:
                transform = functools.partial(traits.qkv_transform, stack)
                yield dataclasses.replace(weight, transform=transform)
            else:
                yield weight
    norms = dict(traits.norms)
    if traits.qk_norm:
        norms |= {f"attention.{n}_norm": f"self_attn.{n[0]}_norm" for n in ("query", "key")}
    for target, source in norms.items():
        yield from scaled_norm(f"{ours}.{target}", f"{theirs}.{source}", traits)


def family_weights(traits: Traits, dims: Dims, names: Names) -> Iterator[WeightMapping]:
    """Every parameter, and the tensors it is made of; a bare model's lack the class's prefix."""
    side = "encoder" if dims.decoder is None else "decoder"
    stack = dims.decoder or dims.encoder
    assert stack is not None
    if f"{traits.embedding}.weight" not in names and dims.head != "lm":
        traits = with_prefix(traits, names)
    yield WeightMapping(target="embedding.weight", sources=(f"{traits.embedding}.weight",))
    if dims.head == "lm" and not dims.tied:
        yield from linear("lm_head", traits.head, bias=False)
    if dims.head == "lm" and dims.logits_bias:
        yield WeightMapping(target="logits_bias", sources=(f"{traits.head}.bias",))
    yield from head_weights(traits.heads, dims, names)
    yield from scaled_norm(f"{side}.final_norm", traits.final_norm, traits)
    for i in range(stack.layers):
        ours, theirs = f"{side}.layers.{i}", f"{traits.layers}.{i}"
        yield from layer_weights(ours, theirs, stack, traits)


def with_prefix(traits: Traits, names: Names) -> Traits:
    """The traits with the names of a bare model, or of a class that says `transformer`."""
    embedding, layers, final = (
        name.split(".", 1)[1] for name in (traits.embedding, traits.layers, traits.final_norm)
    )
    prefix = "transformer." if f"transformer.{embedding}.weight" in names else ""
    return dataclasses.replace(
        traits,
        embedding=f"{prefix}{embedding}",
        layers=f"{prefix}{layers}",
        final_norm=f"{prefix}{final}",
    )


def decoder_family(
    name: str, model: str, *, classes: Sequence[str] = (CLASSES, TOKENS, SPAN), **traits: Any
) -> Family:
    """A family of decoders with these traits; `model` is the start of its classes' names.

    `classes` are the ends of those of them that do not generate.
    """
    own = Traits(**traits)
    return Family(
        name=name,
        architectures=tuple(f"{model}{end}" for end in ("ForCausalLM", "Model", *classes)),
        dims=functools.partial(family_dims, own),
        weights=functools.partial(family_weights, own),
        aliases={f"{own.embedding}.weight": (f"{own.head}.weight",)},
        unused=(rf"{re.escape(own.head)}\.(weight|bias)",),
        # Frequencies and causal masks.
        ignored=(rf"{own.layers}\.\d+\.\w+\.(rotary_emb\.inv_freq|bias|masked_bias)",),
    )


def _unrotated(config: Config, layers: int) -> tuple[int, ...]:
    """The layers that SmolLM3 leaves without positions, every fourth one unless it says which."""
    interval = config.size("no_rope_layer_interval", 4)
    rotated = config.get("no_rope_layers", [(i + 1) % interval for i in range(layers)])
    if not isinstance(rotated, list) or len(rotated) < layers:
        raise CheckpointError(
            f"config.json: no_rope_layers {rotated!r} is no list of {layers} layers"
        )
    return tuple(i for i in range(layers) if not rotated[i])


def _full_layers(config: Config, layers: int) -> tuple[int, ...]:
    """EXAONE 4 rotates only where there is a window, if there is any."""
    if not config.get("sliding_window"):
        return ()
    kinds = config.get("layer_types") or [
        WINDOWED if _exaone_windowed(config, i) else FULL for i in range(layers)
    ]
    return tuple(i for i, kind in enumerate(kinds) if kind == FULL)


def _exaone_windowed(config: Config, layer: int) -> bool:
    """All but each fourth layer; the first configs write the pattern as `LLLG`."""
    every = config.get("sliding_window_pattern", 4)
    every = len(every) if isinstance(every, str) else int(every)
    return bool(config.get("sliding_window")) and (layer + 1) % every != 0


def _all(_config: Config, _layer: int) -> bool:
    return True


def _late(config: Config, layer: int) -> bool:
    return layer >= int(config.get("max_window_layers", 28))


def _but_every_fourth(_config: Config, layer: int) -> bool:
    return (layer + 1) % 4 != 0


def _granite_scales(config: Config, _head_dim: int) -> Scales:
    return {
        "embedding_scale": float(config.get("embedding_multiplier", 1.0)),
        "attention_scale": float(config.get("attention_multiplier", 1.0)),
        "residual_scale": float(config.get("residual_multiplier", 1.0)),
        "logits_scale": 1 / float(config.get("logits_scaling", 1.0)),
    }


LLAMA = decoder_family("llama", "Llama")
MISTRAL = decoder_family("mistral", "Mistral", windowed=_all)
MINISTRAL = decoder_family("ministral", "Ministral", biases=(False, False, False), windowed=_all)
QWEN2 = decoder_family("qwen2", "Qwen2", biases=(True, False, False), windowed=_late, switched=True)
QWEN3 = decoder_family("qwen3", "Qwen3", qk_norm="head", windowed=_late, switched=True)
SMOLLM3 = decoder_family(
    "smollm3",
    "SmolLM3",
    theta=2e6,
    unrotated=_unrotated,
    switched=True,
    windowed=lambda config, layer: layer in _unrotated(config, layer + 1),
)
PHI3 = decoder_family(
    "phi3",
    "Phi3",
    part=1.0,
    original=4096,
    classes=(CLASSES, TOKENS),
    epsilon=("rms_norm_eps", 1e-5),
    biases=(False, False, False),
    windowed=_all,
    qkv=("self_attn.qkv_proj",),
    up=("mlp.gate_up_proj",),
    # Switches of the first code of Phi-4-mini.
    required={"full_attn_mod": 1, "interpolate_factor": 1},
)
GRANITE = decoder_family("granite", "Granite", classes=(), scales=_granite_scales)
_HYBRID = Traits(
    hidden=lambda config: config.size("shared_intermediate_size"),
    biases=("attention_bias", "attention_bias", False),
    up=("shared_mlp.input_linear",),
    down="shared_mlp.output_linear",
    scales=_granite_scales,
    unrotated=lambda config, layers: (
        () if config.get("position_embedding_type") == "rope" else tuple(range(layers))
    ),
    required={"num_local_experts": 0},
)


def _hybrid_dims(config: Config, names: Names) -> Dims:
    """Of those whose layers all attend; what is about the others changes nothing then."""
    kinds = config.get("layer_types") or config.get("layers_block_type") or ["mamba"]
    if set(kinds) - {"attention", FULL}:
        raise UnsupportedError(
            f"config.json: layer_types {', '.join(sorted(set(kinds)))}: layers with a running "
            "state are not supported"
        )
    config.require("position_embedding_type", "rope", "nope")
    config.ignore("intermediate_size", "num_experts_per_tok", "router_aux_loss_coef")
    config.ignore("output_router_logits", "time_step_limit", "init_method")
    config.ignore(*(f"mamba_{part}" for part in MAMBA), "normalization_function", "mlp_bias")
    return family_dims(_HYBRID, config, names)


# What Granite 4 says of its Mamba layers, where it has none too.
MAMBA = "n_heads n_groups d_state d_head d_conv expand chunk_size conv_bias proj_bias".split()
GRANITE_HYBRID = dataclasses.replace(
    decoder_family("granitemoehybrid", "GraniteMoeHybrid"),
    architectures=("GraniteMoeHybridForCausalLM",),
    dims=_hybrid_dims,
    weights=functools.partial(family_weights, _HYBRID),
)
OLMO2 = decoder_family(
    "olmo2",
    "Olmo2",
    classes=(CLASSES,),
    epsilon=("rms_norm_eps", 1e-5),
    biases=("attention_bias", "attention_bias", False),
    norms=BEHIND,
    qk_norm="whole",
)
OLMO3 = decoder_family(
    "olmo3",
    "Olmo3",
    classes=(CLASSES,),
    epsilon=("rms_norm_eps", 1e-5),
    theta=500000.0,
    window_theta=lambda config: float(config.get("rope_theta", 500000.0)),
    biases=("attention_bias", "attention_bias", False),
    norms=BEHIND,
    qk_norm="whole",
    windowed=_but_every_fourth,
)
EXAONE4 = decoder_family(
    "exaone4",
    "Exaone4",
    epsilon=("rms_norm_eps", 1e-5),
    biases=(False, False, False),
    norms=BEHIND,
    qk_norm="head",
    windowed=_exaone_windowed,
    unrotated=_full_layers,
)
STABLELM = decoder_family(
    "stablelm",
    "StableLm",
    classes=(CLASSES, TOKENS),
    part=0.25,
    biases=("use_qkv_bias", False, False),
    norm="layer",
    epsilon=("layer_norm_eps", 1e-5),
    required={"qk_layernorm": False, "use_parallel_residual": False},
)
STARCODER2 = decoder_family(
    "starcoder2",
    "Starcoder2",
    classes=(CLASSES, TOKENS),
    biases=("use_bias", "use_bias", "use_bias"),
    biased=True,
    activation=lambda config: config.activation("hidden_act", "gelu_pytorch_tanh"),
    norm="layer",
    epsilon=("norm_epsilon", 1e-5),
    up=("mlp.c_fc",),
    down="mlp.c_proj",
    gated=False,
    windowed=_all,
    required={"mlp_type": "default", "norm_type": "layer_norm"},
)
