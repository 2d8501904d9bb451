"""OPT (Zhang et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator

from seq2edge.checkpoints.families.bart import layer_weights
from seq2edge.checkpoints.families.family import Config, Family, Names, WeightMapping, linear, norm
from seq2edge.model.dims import Dims, StackDims

OFFSET = 2  # rows of the table of positions before the first token's


def _dims(config: Config, names: Names) -> Dims:
    """The sizes that a config.json says."""
    del names
    width, heads = config.size("hidden_size"), config.size("num_attention_heads")
    config.require("word_embed_proj_dim", width)
    config.require("enable_bias", True)
    config.require("layer_norm_elementwise_affine", True)
    pre_norm = bool(config.get("do_layer_norm_before", True))
    stack = StackDims(
        layers=config.size("num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        hidden=config.size("ffn_dim"),
        activation=config.activation("activation_function", "relu"),
        pre_norm=pre_norm,
        final_norm=pre_norm and not config.get("_remove_final_layer_norm", False),
        max_positions=config.size("max_position_embeddings", 2048),
        position_offset=OFFSET,
        attention_scale=(width // heads) ** -0.5,
    )
    return Dims(
        width=width,
        vocab=config.size("vocab_size"),
        decoder=stack,
        tied=bool(config.get("tie_word_embeddings", True)),
    )


def _weights(dims: Dims, names: Names) -> Iterator[WeightMapping]:
    """Every parameter, and the tensors it is made of; layers are BART's."""
    stack = dims.decoder
    assert stack is not None
    prefix = "decoder" if "decoder.embed_tokens.weight" in names else "model.decoder"
    yield WeightMapping(target="embedding.weight", sources=(f"{prefix}.embed_tokens.weight",))
    if not dims.tied:
        yield from linear("lm_head", "lm_head", bias=False)
    yield WeightMapping(
        target="decoder.positions.weight",
        sources=(f"{prefix}.embed_positions.weight",),
        skip_rows=stack.position_offset,
    )
    if stack.final_norm:
        yield from norm("decoder.final_norm", f"{prefix}.final_layer_norm")
    for i in range(stack.layers):
        yield from layer_weights(f"decoder.layers.{i}", f"{prefix}.layers.{i}", cross=False)


OPT = Family(
    name="opt",
    architectures=("OPTForCausalLM",),
    dims=_dims,
    weights=_weights,
    aliases={
        "model.decoder.embed_tokens.weight": ("lm_head.weight",),
        "decoder.embed_tokens.weight": ("lm_head.weight",),
    },
)
