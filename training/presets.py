"""From a recipe's sizes to `Dims`.

With an encoder, a decoder and one vocabulary of 8,000 tokens the presets have 2.0, 9.6, 48.5 and
185 million parameters; a decoder alone has 1.5, 5.3, 23.1 and 84.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from seq2edge.errors import Seq2EdgeError, TrainingError
from seq2edge.model.dims import Dims, StackDims
from seq2edge.model.transformer import Transformer
from seq2edge.training.recipe import Objective, Recipe

PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"width": 128, "hidden": 512, "heads": 4, "layers": 2},
    "small": {"width": 256, "hidden": 1024, "heads": 4, "layers": 4},
    "base": {"width": 512, "hidden": 2048, "heads": 8, "layers": 6},
    "big": {"width": 1024, "hidden": 4096, "heads": 16, "layers": 6},
}
MAX_POSITIONS = 256
ENCODES: tuple[Objective, ...] = ("seq2seq", "denoise", "infill", "classify")
DECODES: tuple[Objective, ...] = ("seq2seq", "denoise", "infill", "causal")


def make_dims(recipe: Recipe, *, vocab: int, source_vocab: int = 0, labels: int = 0) -> Dims:
    """The dims of a new model. Raises TrainingError for sizes that do not fit together."""
    preset, sizes = PRESETS[recipe.model.preset], recipe.model
    width, heads = sizes.width or preset["width"], sizes.heads or preset["heads"]
    if width % heads:
        raise TrainingError(f"model.width: {width} is not a multiple of model.heads {heads}")
    common = {
        "heads": heads,
        "kv_heads": heads,
        "head_dim": width // heads,
        "hidden": sizes.hidden or preset["hidden"],
        "activation": sizes.activation or "gelu",
        "gated": sizes.gated,
        "norm": sizes.norm or "layer",
        "attention_scale": (width // heads) ** -0.5,
        **_positions(recipe),
    }
    try:
        encoder = _stack(common, sizes.encoder_layers or preset["layers"], width)
        decoder = _stack(common, sizes.decoder_layers or preset["layers"], width)
        return Dims(
            width=width,
            vocab=vocab,
            source_vocab=source_vocab,
            encoder=encoder if recipe.objective in ENCODES else None,
            decoder=decoder if recipe.objective in DECODES else None,
            **_head(recipe.objective, labels),
        )
    except Seq2EdgeError as error:
        raise TrainingError(f"model: {error}") from error


def _stack(common: dict[str, Any], layers: int, width: int) -> StackDims:
    return StackDims(layers=layers, embedding_scale=math.sqrt(width), **common)


def _positions(recipe: Recipe) -> dict[str, Any]:
    """The fields of `StackDims` about positions."""
    kind = recipe.model.positions or "sinusoidal"
    if kind == "rotary":
        if recipe.objective != "causal":
            raise TrainingError(
                "model.positions: rotary is for causal models, the encoder takes learned, "
                "sinusoidal or relative"
            )
        return {"positions": kind, "rotary_theta": 10000.0}
    if kind == "relative":
        return {"positions": kind, "relative_buckets": 32, "relative_distance": 128}
    return {"positions": kind, "max_positions": longest(recipe)}


def count_parameters(dims: Dims) -> tuple[int, int]:
    """All parameters, and those without tables of tokens and positions and without the LM head."""
    with torch.device("meta"):
        model = Transformer(dims)
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    tables += [model.lm_head.weight] if hasattr(model, "lm_head") else []
    whole = sum(parameter.numel() for parameter in model.parameters())
    return whole, whole - sum(table.numel() for table in tables)


def longest(recipe: Recipe) -> int:
    """The longest row in tokens, special ones included."""
    return recipe.model.max_positions or MAX_POSITIONS


def _head(objective: Objective, labels: int) -> dict[str, Any]:
    if objective != "classify":
        return {"head": "lm"}
    return {
        "head": "classifier",
        "labels": labels,
        "classifier_activation": "tanh",
        "pooling": "mean",
    }
