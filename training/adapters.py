"""Low-rank adapters (LoRA, Hu et al. 2022): a trained model learns a task with few new weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from seq2edge.model.transformer import Transformer
from seq2edge.training.recipe import AdapterRecipe

NAME = "default"  # peft's name for the only adapter of a model


def add_adapters(
    model: Transformer, recipe: AdapterRecipe, new: Collection[str], *, seed: int
) -> tuple[str, ...]:
    """Put an adapter beside every linear layer, so that only adapters and `new` weights learn.

    The model's classes stay; its linear layers become peft's with the old one inside. An adapter
    begins as no change. The output table is a table, not a layer, and has none. Returns the names
    of the layers.
    """
    from peft import LoraConfig, inject_adapter_in_model

    layers = [name for name in _linear(model) if f"{name}.weight" not in new]
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=layers,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=NAME)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = ".lora_" in name or name in new
    return tuple(layers)


def merged(weights: Mapping[str, Tensor], recipe: AdapterRecipe) -> dict[str, Tensor]:
    """Weights of an adapted model as those of a plain one: W + alpha / rank * B A.

    weights: by name in the adapted model; they are not changed.
    """
    plain = {}
    for name, value in weights.items():
        if ".lora_" in name:
            continue
        base, inside, part = name.rpartition(".base_layer.")
        if inside and part == "weight":
            down = weights[f"{base}.lora_A.{NAME}.weight"]  # (rank, in)
            up = weights[f"{base}.lora_B.{NAME}.weight"]  # (out, rank)
            value = value + recipe.alpha / recipe.rank * (up @ down)  # noqa: PLW2901
        plain[f"{base}.{part}" if inside else name] = value
    return plain


def _linear(model: Transformer) -> Iterator[str]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            yield name
