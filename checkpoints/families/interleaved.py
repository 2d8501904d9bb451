"""ERNIE 4.5 and GLM: Llama's relatives that rotate neighbours, not halves.

The rows of queries and keys are put in the order of halves instead, which changes no score.
Sources: Baidu 2025, GLM team 2024.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seq2edge.checkpoints.families.llama import CLASSES, TOKENS, decoder_family
from seq2edge.model.dims import StackDims


def in_halves(stack: StackDims, qkv: Tensor) -> Tensor:
    """Of each head's rotated rows the even ones, then the odd ones; values stay."""
    heads = qkv.reshape(stack.heads + 2 * stack.kv_heads, stack.head_dim, -1)
    rows = torch.arange(stack.head_dim)
    rotated = rows[: stack.rotated]
    order = torch.cat([rotated[::2], rotated[1::2], rows[stack.rotated :]])
    turned = stack.heads + stack.kv_heads
    return torch.cat([heads[:turned, order], heads[turned:]]).reshape(qkv.shape)


ERNIE = decoder_family(
    "ernie4_5",
    "Ernie4_5",
    classes=(),
    theta=500000.0,
    epsilon=("rms_norm_eps", 1e-5),
    biases=("use_bias", "use_bias", "use_bias"),
    qkv_transform=in_halves,
)
GLM = decoder_family(
    "glm",
    "Glm",
    classes=(CLASSES, TOKENS),
    part=0.5,
    epsilon=("rms_norm_eps", 1.5625e-7),
    biases=("attention_bias", False, False),
    biased=True,
    up=("mlp.gate_up_proj",),
    qkv_transform=in_halves,
)
