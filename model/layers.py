"""The parts of a Transformer layer, each shaped by `StackDims` alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seq2edge.model import operators
from seq2edge.model.dims import SampleDims, StackDims

Rotation = tuple[Tensor, Tensor] | None
KeyValue = tuple[Tensor, Tensor]  # each (rows, kv_heads, capacity, head_dim)
Kept = tuple[Tensor, ...]  # what a layer keeps, as `StackDims.caches` says; mostly a KeyValue


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


def norm(stack: StackDims, width: int) -> nn.Module:
    """The stack's kind of normalization."""
    if stack.norm == "rms":
        return nn.RMSNorm(width, eps=stack.norm_epsilon)
    return nn.LayerNorm(width, eps=stack.norm_epsilon, bias=stack.norm_bias)


class SelfAttention(nn.Module):
    """Queries, keys and values from one merged product; the cache is the caller's."""

    def __init__(self, stack: StackDims, width: int) -> None:
        super().__init__()
        self.stack = stack
        merged = stack.query_width + 2 * stack.key_width
        self.qkv = nn.Linear(width, merged, bias=stack.qkv_bias)
        self.out = nn.Linear(stack.query_width, width, bias=stack.attention_bias)
        if stack.qk_norm_whole:
            self.query_norm = nn.RMSNorm(stack.query_width, eps=stack.norm_epsilon)
            self.key_norm = nn.RMSNorm(stack.key_width, eps=stack.norm_epsilon)
        elif stack.qk_norm:
            self.query_norm = nn.RMSNorm(stack.head_dim, eps=stack.norm_epsilon)
            self.key_norm = nn.RMSNorm(stack.head_dim, eps=stack.norm_epsilon)
        if stack.relative_span:
            shape = (stack.heads, 2 * stack.relative_span, stack.head_dim)
            self.position_key = nn.Parameter(torch.empty(shape))
            self.position_query = nn.Parameter(torch.empty(shape))

    def project(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """x (rows, new, width) -> query, key, value, each (rows, heads, new, head_dim)."""
        stack = self.stack
        widths = [stack.query_width, stack.key_width, stack.key_width]
        query, key, value = self.qkv(x).split(widths, dim=-1)
        if stack.qk_norm_whole:
            query, key = self.query_norm(query), self.key_norm(key)
        elif stack.qk_norm:
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

    def _disentangle(self, query: Tensor, key: Tensor, places: Tensor) -> Tensor:
        """Scores of contents with positions (He et al. 2021), (batch, heads, source, source).

        query, key (batch, heads, source, head_dim); places (2, source, source).
        """
        to_positions = torch.matmul(self.position_key, query.transpose(2, 3))
        to_contents = torch.matmul(self.position_query, key.transpose(2, 3))
        scores = operators.pick(to_positions, places[0]) + operators.pick(to_contents, places[1])
        return scores * self.stack.attention_scale

    def _normalise(self, x: Tensor, head_norm: nn.Module, heads: int) -> Tensor:
        return operators.merge_heads(head_norm(operators.split_heads(x, heads)))

    def forward(
        self,
        x: Tensor,
        rotation: Rotation,
        mask: Tensor | None,
        length: Tensor | None,
        past: Kept | None = None,
        start: Tensor | None = None,
    ) -> tuple[Tensor, Kept]:
        """Attend over x itself, or over `past` after x was written into it from `start` on.

        With `relative_span` the mask is the places in the tables of relative positions.
        """
        query, key, value = self.project(x, rotation)
        if self.stack.relative_span and mask is not None:
            mask = self._disentangle(query, key, mask)
        if past is not None and start is not None:
            key = operators.write_cache(past[0], key, start)
            value = operators.write_cache(past[1], value, start)
        heads = operators.attend(
            query,
            key,
            value,
            scale=self.stack.attention_scale,
            cap=self.stack.attention_cap,
            mask=mask,
            length=length,
        )
        return self.out(operators.merge_heads(heads)), (key, value)


class Recurrence(nn.Module):
    """Simpler simple recurrent unit (Kim et al. 2019): a state of the model's width.

    state = keep * state + (1 - keep) * put, where a token says how much of the state is kept.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gates = nn.Linear(width, 2 * width)

    def forward(
        self, x: Tensor, past: Kept | None = None, start: Tensor | None = None
    ) -> tuple[Tensor, Kept]:
        """x (rows, new, width); the states are written into `past` from `start` on."""
        keep, put = self.gates(x).chunk(2, dim=-1)
        put = torch.sigmoid(-keep) * put
        before = None
        if past is not None and start is not None:
            before = operators.read_before(past[0], start)
        state = operators.accumulate(-F.softplus(-keep), put, before)
        written = operators.split_heads(state, 1)
        if past is not None and start is not None:
            written = operators.write_cache(past[0], written, start)
        return F.relu(state), (written,)


class Convolution(nn.Module):
    """Gated short convolution (Liquid AI's LFM2): each channel sums up its last `taps` tokens."""

    def __init__(self, stack: StackDims, width: int) -> None:
        super().__init__()
        self.taps = stack.taps
        self.gates = nn.Linear(width, 3 * width, bias=False)
        self.kernel = nn.Parameter(torch.empty(stack.taps, width))
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, past: Kept | None = None, start: Tensor | None = None
    ) -> tuple[Tensor, Kept]:
        """x (rows, new, width); what is summed up is written into `past` from `start` on."""
        before, after, put = self.gates(x).chunk(3, dim=-1)
        put = before * put
        written = operators.split_heads(put, 1)
        if past is not None and start is not None:
            earlier = operators.read_before(past[0], start, self.taps - 1)
            written = operators.write_cache(past[0], written, start)
        else:
            earlier = put.new_zeros(put.shape[0], self.taps - 1, put.shape[2])
        tokens = torch.cat((earlier, put), dim=1)  # (rows, taps - 1 + new, width)
        total = tokens[:, self.taps - 1 :] * self.kernel[-1]
        for tap in range(self.taps - 1):
            total = total + tokens[:, tap : tap + 1 - self.taps] * self.kernel[tap]
        return self.out(after * total), (written,)


class CrossAttention(nn.Module):
    """Attention to the encoder. Keys and values are projected once, by the encoder's graph."""

    def __init__(self, stack: StackDims, width: int, source_width: int) -> None:
        super().__init__()
        self.stack = stack
        self.query = nn.Linear(width, stack.query_width, bias=stack.qkv_bias)
        self.key_value = nn.Linear(source_width, 2 * stack.key_width, bias=stack.qkv_bias)
        self.out = nn.Linear(stack.query_width, width, bias=stack.attention_bias)

    def project_source(self, encoded: Tensor) -> KeyValue:
        """encoded (batch, source, width) -> key, value (batch, kv_heads, source, head_dim)."""
        key, value = self.key_value(encoded).chunk(2, dim=-1)
        heads = self.stack.kv_heads
        return operators.split_heads(key, heads), operators.split_heads(value, heads)

    def forward(
        self,
        x: Tensor,
        source: KeyValue,
        source_length: Tensor,
        queries: list[Tensor] | None = None,
    ) -> Tensor:
        """x (batch * beams, new, width); the beams of an input share its keys and values.

        The queries (batch * beams, new, heads * head_dim) are added to `queries`.
        """
        projected = self.query(x)
        if queries is not None:
            queries.append(projected)
        folded = operators.fold_beams(projected, source_length)
        query = operators.split_heads(folded, self.stack.heads)
        heads = operators.attend(
            query,
            *source,
            scale=self.stack.attention_scale,
            cap=self.stack.attention_cap,
            length=source_length,
        )
        return self.out(operators.unfold_beams(operators.merge_heads(heads), x))


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
            return self.down(self.activation(gate) * x)
        return self.down(self.activation(x))


class Layer(nn.Module):
    """Self-attention or what stands for it, attention to a source if there is one, feed-forward."""

    def __init__(
        self, stack: StackDims, width: int, *, source_width: int = 0, index: int = 0
    ) -> None:
        """With `source_width` it attends to an encoder of that width."""
        super().__init__()
        cross = source_width > 0
        first, self.mixer = index == 0, stack.layer_mixers[index]
        self.pre_norm = stack.pre_norm
        self.sum_norm = not stack.pre_norm and not stack.output_norm
        self.parallel = stack.parallel
        self.residual_scale = stack.residual_scale

        inputs, outputs = stack.pre_norm or self.sum_norm, stack.output_norm
        if self.mixer == "attention":
            self.attention = SelfAttention(stack, width)
        elif self.mixer == "recurrence":
            self.recurrence = Recurrence(width)
        else:
            self.convolution = Convolution(stack, width)
        self.attention_norm = (
            norm(stack, width) if inputs and (stack.first_norm or not first) else nn.Identity()
        )
        self.attention_output_norm = norm(stack, width) if outputs else nn.Identity()
        self.cross = CrossAttention(stack, width, source_width) if cross else None
        self.cross_norm = norm(stack, width) if inputs and cross else nn.Identity()
        self.cross_output_norm = norm(stack, width) if outputs and cross else nn.Identity()
        self.feedforward = FeedForward(stack, width)
        self.feedforward_norm = norm(stack, width) if inputs else nn.Identity()
        self.feedforward_output_norm = norm(stack, width) if outputs else nn.Identity()
        self.dropout = nn.Dropout(0.0)  # its rate is set by training alone

    def _before(self, x: Tensor, norm_: nn.Module) -> Tensor:
        return norm_(x) if self.pre_norm else x

    def _after(self, x: Tensor, change: Tensor, norm_: nn.Module) -> Tensor:
        """The residual sum, normalised where the norm comes last."""
        if self.residual_scale != 1.0:
            change = change * self.residual_scale
        x = x + self.dropout(change)
        return norm_(x) if self.sum_norm else x

    def forward(
        self,
        x: Tensor,
        *,
        rotation: Rotation = None,
        mask: Tensor | None = None,
        length: Tensor | None = None,
        past: Kept | None = None,
        start: Tensor | None = None,
        source: KeyValue | None = None,
        source_length: Tensor | None = None,
        queries: list[Tensor] | None = None,
    ) -> tuple[Tensor, Kept]:
        """x (rows, new, width); returns it and what this layer keeps."""
        y = self._before(x, self.attention_norm)
        present: Kept
        if self.mixer == "attention":
            y, present = self.attention(y, rotation, mask, length, past, start)
        elif self.mixer == "recurrence":
            y, present = self.recurrence(y, past, start)
        else:
            y, present = self.convolution(y, past, start)
        y = self.attention_output_norm(y)
        if self.parallel:
            y = y + self.feedforward(self._before(x, self.feedforward_norm))
            return self._after(x, y, self.feedforward_norm), present
        x = self._after(x, y, self.attention_norm)
        if self.cross is not None:
            y = self.cross(self._before(x, self.cross_norm), source, source_length, queries)
            x = self._after(x, self.cross_output_norm(y), self.cross_norm)
        y = self.feedforward(self._before(x, self.feedforward_norm))
        y = self.feedforward_output_norm(y)
        return self._after(x, y, self.feedforward_norm), present


class Convolutions(nn.Module):
    """What reads samples: see `SampleDims`."""

    def __init__(self, dims: SampleDims, width: int) -> None:
        super().__init__()
        sizes = [1, *(widths * width for _, _, widths in dims.convolutions)]
        self.layers = nn.ModuleList(
            nn.Conv1d(size, wider, taps, stride=step, bias=i > 0)
            for i, ((taps, step, _), size, wider) in enumerate(
                zip(dims.convolutions, sizes, sizes[1:], strict=False)
            )
        )
        self.first = dims.convolutions[0]
        self.epsilon = dims.norm_epsilon
        self.weight = nn.Parameter(torch.ones(sizes[1]))
        self.bias = nn.Parameter(torch.zeros(sizes[1]))

    def forward(self, samples: Tensor, length: Tensor) -> Tensor:
        """samples (batch, samples), of which length (batch,) count -> (batch, source, width)."""
        first, *others = self.layers
        x = self._normalise(torch.tanh(first(samples[:, None])), length)
        for layer in others:
            x = F.gelu(layer(x))
        return x.transpose(1, 2)

    def _normalise(self, x: Tensor, length: Tensor) -> Tensor:
        """One mean and variance of a clip's frames, x (batch, width, frames), padding left out.

        So that what is heard of a clip does not depend on how long the others of its batch are.
        """
        taps, step, _ = self.first
        ends = operators.places(x, 2) * step + taps
        valid = (ends <= length[:, None])[:, None].to(x.dtype)  # (batch, width: 1, frames)
        count = valid.sum(dim=(1, 2), keepdim=True) * x.shape[1]
        centred = x - (x * valid).sum(dim=(1, 2), keepdim=True) / count
        squares = (centred * centred * valid).sum(dim=(1, 2), keepdim=True) / count
        x = centred / torch.sqrt(squares + self.epsilon)
        return x * self.weight[:, None] + self.bias[:, None]
