"""The parts of a Transformer layer, each shaped by `StackDims` alone."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seq2edge.model import operators
from seq2edge.model.dims import StackDims

Rotation = tuple[Tensor, Tensor] | None
KeyValue = tuple[Tensor, Tensor]  # each (rows, kv_heads, capacity, head_dim)


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function of that name in `dims.ACTIVATIONS`."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "relu": F.relu,
        "gelu": F.gelu,
        "gelu_tanh": _gelu_tanh,
        "silu": F.silu,
        "tanh": torch.tanh,
    }
    return functions[name]


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


class RMSNorm(nn.Module):
    """Root-mean-square normalization (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


def norm(stack: StackDims, width: int) -> nn.Module:
    """The stack's kind of normalization."""
    if stack.norm == "rms":
        return RMSNorm(width, stack.norm_epsilon)
    return nn.LayerNorm(width, eps=stack.norm_epsilon)


class SelfAttention(nn.Module):
    """Queries, keys and values from one merged product; the cache is the caller's."""

    def __init__(self, stack: StackDims, width: int) -> None:
        super().__init__()
        self.stack = stack
        merged = stack.query_width + 2 * stack.key_width
        self.qkv = nn.Linear(width, merged, bias=stack.qkv_bias)
        self.out = nn.Linear(stack.query_width, width, bias=stack.attention_bias)
        if stack.qk_norm:
            self.query_norm = RMSNorm(stack.head_dim, stack.norm_epsilon)
            self.key_norm = RMSNorm(stack.head_dim, stack.norm_epsilon)

    def project(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """x (rows, new, width) -> query, key, value, each (rows, heads, new, head_dim)."""
        stack = self.stack
        widths = [stack.query_width, stack.key_width, stack.key_width]
        query, key, value = self.qkv(x).split(widths, dim=-1)
        if stack.qk_norm:
            query = self._normalise(query, self.query_norm, stack.heads)
            key = self._normalise(key, self.key_norm, stack.kv_heads)
        if rotation is not None:
            query = operators.rotate(query, *rotation, stack.heads)
            key = operators.rotate(key, *rotation, stack.kv_heads)
        return (
            operators.split_heads(query, stack.heads),
            operators.split_heads(key, stack.kv_heads),
            operators.split_heads(value, stack.kv_heads),
        )

    def _normalise(self, x: Tensor, head_norm: nn.Module, heads: int) -> Tensor:
        split = operators.split_heads(x, heads)
        return operators.merge_heads(head_norm(split))

    def forward(
        self,
        x: Tensor,
        rotation: Rotation,
        mask: Tensor | None,
        length: Tensor | None,
        past: KeyValue | None = None,
        start: Tensor | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """Attend over x itself, or over `past` after x was written into it from `start` on."""
        query, key, value = self.project(x, rotation)
        if past is not None and start is not None:
            key = operators.write_cache(past[0], key, start)
            value = operators.write_cache(past[1], value, start)
        seen = operators.attend(
            query, key, value, scale=self.stack.attention_scale, mask=mask, length=length
        )
        out: Tensor = self.out(operators.merge_heads(seen))
        return out, (key, value)


class CrossAttention(nn.Module):
    """Attention to the encoder. Keys and values are projected once, by the encoder's graph."""

    def __init__(self, stack: StackDims, width: int) -> None:
        super().__init__()
        self.stack = stack
        self.query = nn.Linear(width, stack.query_width, bias=stack.qkv_bias)
        self.key_value = nn.Linear(width, 2 * stack.key_width, bias=stack.qkv_bias)
        self.out = nn.Linear(stack.query_width, width, bias=stack.attention_bias)

    def project_source(self, encoded: Tensor) -> KeyValue:
        """encoded (batch, source, width) -> key, value (batch, kv_heads, source, head_dim)."""
        key, value = self.key_value(encoded).chunk(2, dim=-1)
        heads = self.stack.kv_heads
        return operators.split_heads(key, heads), operators.split_heads(value, heads)

    def forward(self, x: Tensor, source: KeyValue, source_length: Tensor) -> Tensor:
        """x (batch * beams, new, width); the beams of an input share its keys and values."""
        folded = operators.fold_beams(self.query(x), source_length)
        query = operators.split_heads(folded, self.stack.heads)
        seen = operators.attend(
            query, *source, scale=self.stack.attention_scale, length=source_length
        )
        out: Tensor = self.out(operators.unfold_beams(operators.merge_heads(seen), x))
        return out


class FeedForward(nn.Module):
    """Two products with an activation between; gate and up are one product when gated."""

    def __init__(self, stack: StackDims, width: int) -> None:
        super().__init__()
        self.gated = stack.gated
        merged = stack.hidden * (2 if stack.gated else 1)
        self.up = nn.Linear(width, merged, bias=stack.feedforward_bias)
        self.down = nn.Linear(stack.hidden, width, bias=stack.feedforward_bias)
        self.activation = activation(stack.activation)

    def forward(self, x: Tensor) -> Tensor:
        """x (rows, length, width), same out."""
        x = self.up(x)
        if self.gated:
            gate, x = x.chunk(2, dim=-1)
            inner = self.activation(gate) * x
        else:
            inner = self.activation(x)
        out: Tensor = self.down(inner)
        return out


def drop(module: nn.Module, x: Tensor) -> Tensor:
    """Dropout (Srivastava et al. 2014) at the module's rate while it trains, else x itself."""
    rate = float(module.dropout)  # type: ignore[arg-type]
    return F.dropout(x, rate) if module.training and rate else x


class Layer(nn.Module):
    """Self-attention, cross-attention where there is an encoder, feed-forward."""

    dropout = 0.0  # while training; graphs never have it

    def __init__(self, stack: StackDims, width: int, *, cross: bool) -> None:
        super().__init__()
        self.pre_norm = stack.pre_norm
        self.attention = SelfAttention(stack, width)
        self.attention_norm = norm(stack, width)
        self.cross = CrossAttention(stack, width) if cross else None
        self.cross_norm = norm(stack, width) if cross else None
        self.feedforward = FeedForward(stack, width)
        self.feedforward_norm = norm(stack, width)

    def _residual(self, x: Tensor, norm_: nn.Module, part: Callable[[Tensor], Tensor]) -> Tensor:
        if self.pre_norm:
            return x + drop(self, part(norm_(x)))
        normed: Tensor = norm_(x + drop(self, part(x)))
        return normed

    def forward(
        self,
        x: Tensor,
        rotation: Rotation,
        mask: Tensor | None,
        length: Tensor | None,
        past: KeyValue | None = None,
        start: Tensor | None = None,
        source: KeyValue | None = None,
        source_length: Tensor | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """x (rows, new, width); returns it and the keys and values of this layer."""
        present: list[KeyValue] = []

        def attend(y: Tensor) -> Tensor:
            out: Tensor
            out, key_value = self.attention(y, rotation, mask, length, past, start)
            present.append(key_value)
            return out

        x = self._residual(x, self.attention_norm, attend)
        if self.cross is not None and self.cross_norm is not None:
            crossing = functools.partial(self.cross, source=source, source_length=source_length)
            x = self._residual(x, self.cross_norm, crossing)
        x = self._residual(x, self.feedforward_norm, self.feedforward)
        return x, present[0]
