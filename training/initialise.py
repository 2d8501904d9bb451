"""Weights before the first step."""

from __future__ import annotations

import torch
from torch import nn

from seq2edge.model.dims import Dims
from seq2edge.model.layers import SelfAttention
from seq2edge.model.positions import RelativeBias, sinusoidal_table
from seq2edge.model.transformer import Stack, Transformer


def new_model(dims: Dims, seed: int) -> Transformer:
    """A model with random weights that depend on the seed alone.

    Linear layers after Glorot and Bengio (2010), each of the merged queries, keys and values on its
    own; tables normal with deviation width ** -0.5, so that scaled embeddings have variance 1.
    """
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(dims)
    with torch.no_grad():
        for module in model.modules():
            _fill(module, generator)
        for module in model.modules():
            if isinstance(module, SelfAttention):
                _fill_merged(module, generator)
        for stack in _sinusoidal(model):
            positions, width = stack.positions.weight.shape
            stack.positions.weight.copy_(sinusoidal_table(positions, width))
    freeze_positions(model)
    return model


def freeze_positions(model: Transformer) -> None:
    """Sinusoidal tables are no weights to learn."""
    for stack in _sinusoidal(model):
        stack.positions.weight.requires_grad = False


def _sinusoidal(model: Transformer) -> list[Stack]:
    stacks = [module for module in model.modules() if isinstance(module, Stack)]
    return [stack for stack in stacks if stack.dims.positions == "sinusoidal"]


def _fill(module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight, generator=generator)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        deviation = module.embedding_dim**-0.5
        nn.init.normal_(module.weight, std=deviation, generator=generator)
    elif isinstance(module, RelativeBias):
        nn.init.zeros_(module.weight)


def _fill_merged(attention: SelfAttention, generator: torch.Generator) -> None:
    stack = attention.stack
    widths = [stack.query_width, stack.key_width, stack.key_width]
    for part in torch.split(attention.qkv.weight, widths):
        nn.init.xavier_uniform_(part, generator=generator)
