"""Whisper (Radford et al. 2022): log-mel features in, tokens out."""

from __future__ import annotations

from collections.abc import Iterator

from seq2edge.checkpoints.families.bart import Layout, layer_weights, stack_dims
from seq2edge.checkpoints.families.family import Config, Family, Names, WeightMapping, linear, norm
from seq2edge.model.dims import Dims

LAYOUT = Layout(
    pre_norm=True, final_norm=True, embedding_norm=False, positions="learned", logits_bias=False
)


def _dims(config: Config, names: Names) -> Dims:
    """The sizes that a config.json says."""
    del names
    config.require("scale_embedding", False)
    config.require("tie_word_embeddings", True)
    config.ignore(
        "num_hidden_layers",
        "max_position_embeddings",
        "use_weighted_layer_sum",
        "lang_ids",
        "suppress_ids",
        "suppress_ids_begin",
        "alignment_heads",
    )
    return Dims(
        width=config.size("d_model"),
        vocab=config.size("vocab_size"),
        mels=config.size("num_mel_bins", 80),
        encoder=stack_dims(config, LAYOUT, "encoder", config.size("max_source_positions", 1500)),
        decoder=stack_dims(config, LAYOUT, "decoder", config.size("max_target_positions", 448)),
    )


def _weights(dims: Dims, names: Names) -> Iterator[WeightMapping]:
    """Every parameter, and the tensors it is made of; layers are BART's."""
    del names
    yield WeightMapping(target="embedding.weight", sources=("model.decoder.embed_tokens.weight",))
    for number in (1, 2):
        yield from linear(f"convolution{number}", f"model.encoder.conv{number}")
    for side, stack in (("encoder", dims.encoder), ("decoder", dims.decoder)):
        assert stack is not None
        positions = f"model.{side}.embed_positions.weight"
        yield WeightMapping(target=f"{side}.positions.weight", sources=(positions,))
        yield from norm(f"{side}.final_norm", f"model.{side}.layer_norm")
        for i in range(stack.layers):
            yield from layer_weights(
                f"{side}.layers.{i}",
                f"model.{side}.layers.{i}",
                cross=side == "decoder",
                key_bias=False,
            )


WHISPER = Family(
    name="whisper",
    architectures=("WhisperForConditionalGeneration",),
    dims=_dims,
    weights=_weights,
    aliases={"model.decoder.embed_tokens.weight": ("proj_out.weight",)},
)
