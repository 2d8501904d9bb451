"""The canonical Transformer: every supported family is this module with other `Dims`."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seq2edge.model import operators
from seq2edge.model.dims import Dims, StackDims
from seq2edge.model.layers import KeyValue, Layer, Rotation, activation, norm
from seq2edge.model.positions import RelativeBias, Rotary

UNSEEN = -32768.0  # added to the score of a key outside a window; exact in every float type
Heads: TypeAlias = tuple[tuple[int, ...], ...]  # pairs (decoder layer, head)


class Stack(nn.Module):
    """Embedded tokens or features in, hidden states out; encoder or decoder."""

    def __init__(self, stack: StackDims, width: int, *, causal: bool, cross: bool) -> None:
        super().__init__()
        self.dims = stack
        self.causal = causal
        self.layers = nn.ModuleList(
            Layer(stack, width, cross=cross, first=i == 0) for i in range(stack.layers)
        )
        self.embedding_norm = norm(stack, width) if stack.embedding_norm else nn.Identity()
        self.final_norm = norm(stack, width) if stack.final_norm else nn.Identity()
        self.dropout = nn.Dropout(0.0)  # its rate is set by training alone
        if stack.positions in ("learned", "sinusoidal"):
            self.positions = nn.Embedding(stack.max_positions, width)
        elif stack.positions == "rotary":
            self.rotary = Rotary(stack)
            if stack.window_theta:
                self.window_rotary = Rotary(stack, windowed=True)
        else:
            self.relative = RelativeBias(stack, bidirectional=not causal)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        """Scale and place embedded tokens x (rows, new, width); positions (rows or 1, new)."""
        if self.dims.embedding_scale != 1.0:
            x = x * self.dims.embedding_scale
        if self.dims.positions in ("learned", "sinusoidal"):
            x = x + self.positions(positions)
        return self.dropout(self.embedding_norm(x))

    def rotations(self, positions: Tensor) -> list[Rotation]:
        """Rotary angles of these positions for each layer, or None."""
        stack = self.dims
        if stack.positions != "rotary":
            return [None] * stack.layers
        rotation = windowed = self.rotary(positions)
        if stack.window_theta:
            windowed = self.window_rotary(positions)
        return [
            None if i in stack.unrotated_layers else windowed if window else rotation
            for i, window in enumerate(stack.layer_windows)
        ]

    def masks(self, positions: Tensor, keys: Tensor) -> list[Tensor | None]:
        """What the tokens at `positions` (rows, new) see of `keys` (total,) in each layer.

        Each (rows, 1 or heads, new, total); None where that is everything.
        """
        mask_of = self._causal_mask if self.causal else self._bidirectional_mask
        made = {window: mask_of(positions, keys, window) for window in self.dims.layer_windows}
        return [made[window] for window in self.dims.layer_windows]

    def _causal_mask(self, positions: Tensor, keys: Tensor, window: int) -> Tensor:
        """Boolean; additive where there is a relative bias."""
        query = positions[:, :, None]  # (rows, new, 1)
        allowed = keys <= query
        if window:
            allowed = allowed & (keys > query - window)
        if self.dims.positions == "relative":
            bias = self.relative(positions, keys)  # (rows, heads, new, total)
            return bias.masked_fill(~allowed[:, None], float("-inf"))
        return allowed[:, None]  # (rows, 1, new, total)

    def _bidirectional_mask(self, positions: Tensor, keys: Tensor, window: int) -> Tensor | None:
        """Additive. Finite, since behind the source's end a window may hold padding alone."""
        bias = self.relative(positions, keys) if self.dims.positions == "relative" else None
        if not window:
            return bias
        query = positions[:, None, :, None]  # (rows, 1, new, 1)
        seen = (keys > query - window) & (keys < query + window)
        hidden = (~seen).to(next(self.parameters()).dtype) * UNSEEN
        return hidden if bias is None else bias + hidden


@dataclasses.dataclass(kw_only=True)
class StaticCache:
    """Keys and values in buffers of fixed capacity, written in place; row r holds `length[r]`."""

    layers: list[KeyValue]
    length: Tensor
    source: list[KeyValue]
    source_length: Tensor | None = None


class Transformer(nn.Module):
    """Encoder, decoder and head, each present or not as the dims say."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.dims = dims
        self.embedding = nn.Embedding(dims.vocab, dims.width)
        if dims.source_vocab:
            self.source_embedding = nn.Embedding(dims.source_vocab, dims.width)
        if dims.token_types:
            self.token_types = nn.Embedding(dims.token_types, dims.width)
        cross = dims.kind == "encoder-decoder"
        if dims.encoder is not None:
            self.encoder = Stack(dims.encoder, dims.width, causal=False, cross=False)
        if dims.decoder is not None:
            self.decoder = Stack(dims.decoder, dims.width, causal=True, cross=cross)
        if dims.mels:
            self.convolution1 = nn.Conv1d(dims.mels, dims.width, 3, padding=1)
            self.convolution2 = nn.Conv1d(dims.width, dims.width, 3, stride=2, padding=1)
        self._add_head(dims)

    def _add_head(self, dims: Dims) -> None:
        if dims.head == "lm":
            if not dims.tied:
                self.lm_head = nn.Linear(dims.width, dims.vocab, bias=False)
            if dims.logits_bias:
                self.logits_bias = nn.Parameter(torch.zeros(dims.vocab))
        elif dims.head == "classifier":
            bias = dims.classifier_bias
            self.classifier_dense = nn.Linear(dims.width, dims.width, bias=bias)
            self.classifier_out = nn.Linear(dims.width, dims.labels)
            self.classifier_activation = activation(dims.classifier_activation)
            if dims.classifier_norm:
                assert dims.encoder is not None
                self.classifier_norm = norm(dims.encoder, dims.width)

    def encode(self, source: Tensor, source_length: Tensor) -> Tensor:
        """Tokens (batch, source) or features (batch, mels, frames) -> (batch, source, width)."""
        if self.dims.mels:
            x = F.gelu(self.convolution1(source))
            x = F.gelu(self.convolution2(x)).transpose(1, 2)  # (batch, frames / 2, width)
        else:
            table = self.source_embedding if self.dims.source_vocab else self.embedding
            x = table(source)
        if self.dims.token_types:
            x = x + self.token_types.weight[0]
        stack, positions = self.encoder, torch.arange(x.shape[1], device=x.device)
        x = stack.embed(x, positions[None])
        # One row of angles for each input: no operator repeats them.
        rotations = stack.rotations(positions[None].expand(x.shape[0], -1))
        masks = stack.masks(positions[None], positions)
        for layer, rotation, mask in zip(stack.layers, rotations, masks, strict=True):
            x, _ = layer(x, rotation=rotation, mask=mask, length=source_length)
        return stack.final_norm(x)

    def project_source(self, encoded: Tensor) -> list[KeyValue]:
        """Cross-attention keys and values for every decoder layer."""
        crossing = (cast("Layer", layer).cross for layer in self.decoder.layers)
        return [cross.project_source(encoded) for cross in crossing if cross is not None]

    def decode(
        self,
        tokens: Tensor,
        source: list[KeyValue],
        source_length: Tensor | None,
        *,
        start: Tensor | None = None,
        past: list[KeyValue] | None = None,
        queries: list[Tensor] | None = None,
    ) -> tuple[Tensor, list[KeyValue]]:
        """tokens (rows, new) -> hidden (rows, new, width), keys and values.

        With a cache (`past`) row r is placed from `start[r]` on; without one the tokens are whole
        sequences, as in training. The layers' cross-attention queries are added to `queries`.
        """
        stack, new = self.decoder, torch.arange(tokens.shape[1], device=tokens.device)
        positions = new[None] if start is None else start[:, None] + new
        keys = new if past is None else torch.arange(past[0][0].shape[2], device=tokens.device)
        x = stack.embed(self.embedding(tokens), positions)
        rotations, masks = stack.rotations(positions), stack.masks(positions, keys)
        present = []
        for index, layer in enumerate(stack.layers):
            x, key_value = layer(
                x,
                rotation=rotations[index],
                mask=masks[index],
                past=past[index] if past else None,
                start=start,
                source=source[index] if source else None,
                source_length=source_length,
                queries=queries,
            )
            present.append(key_value)
        return stack.final_norm(x), present

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (..., width) -> (..., vocab)."""
        if self.dims.logits_scale != 1.0:
            hidden = hidden * self.dims.logits_scale
        weight = self.embedding.weight if self.dims.tied else self.lm_head.weight
        logits = F.linear(hidden, weight, self.logits_bias if self.dims.logits_bias else None)
        cap = self.dims.logits_cap
        return torch.tanh(logits / cap) * cap if cap else logits

    def last_logits(self, hidden: Tensor, new_length: Tensor) -> Tensor:
        """Logits after each row's last valid token, (rows, vocab)."""
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        return self.logits(hidden[rows, new_length - 1])

    def last_alignment(
        self,
        queries: list[Tensor],
        source: list[KeyValue],
        source_length: Tensor,
        new_length: Tensor,
        heads: Heads,
    ) -> Tensor:
        """What each row's last valid token attends to in the source, (rows, source).

        The mean of these heads' cross-attention weights; `queries` are those that `decode` gave.
        """
        stack = self.decoder.dims
        rows = torch.arange(new_length.shape[0], device=new_length.device)
        total: Tensor | float = 0.0
        for layer in sorted({pair[0] for pair in heads}):
            mine = [head for of, head in heads if of == layer]
            last = queries[layer][rows, new_length - 1]  # (rows, heads * head_dim)
            query = operators.fold_beams(last[:, None], source_length)
            query, key = operators.split_heads(query, stack.heads), source[layer][0]
            if mine != list(range(stack.heads)) or stack.kv_heads != stack.heads:
                query = query[:, mine]  # (batch, chosen, beams, head_dim)
                key = key[:, [head * stack.kv_heads // stack.heads for head in mine]]
            scale = stack.attention_scale
            weights = operators.weigh(query, key, scale=scale, length=source_length)
            total = total + weights.sum(dim=1)  # (batch, beams, source)
        assert isinstance(total, Tensor)
        return operators.flatten_beams(total / len(heads))

    def pool(self, source: Tensor, source_length: Tensor) -> Tensor:
        """Class logits (batch, labels) or embeddings (batch, width) of an encoder-only model."""
        encoded = self.encode(source, source_length)
        if self.dims.late_pooling:
            encoded = self._before_classes(encoded)
        if self.dims.pooling == "mean":
            valid = torch.arange(encoded.shape[1], device=encoded.device) < source_length[:, None]
            total = (encoded * valid[:, :, None].to(encoded.dtype)).sum(dim=1)
            pooled = total / source_length[:, None].clamp(min=1).to(encoded.dtype)  # (batch, width)
        else:
            pooled = encoded[:, 0]
        if self.dims.head == "classifier":
            dense = pooled if self.dims.late_pooling else self._before_classes(pooled)
            return self.classifier_out(dense)
        return F.normalize(pooled, dim=-1) if self.dims.normalize else pooled

    def _before_classes(self, x: Tensor) -> Tensor:
        """A classifier's first product and what follows it, x (..., width)."""
        x = self.classifier_activation(self.classifier_dense(x))
        return self.classifier_norm(x) if self.dims.classifier_norm else x

    def start(
        self,
        rows: int,
        capacity: int,
        source: list[KeyValue] | None = None,
        source_length: Tensor | None = None,
    ) -> StaticCache:
        """An empty cache for `rows` sequences of up to `capacity` tokens."""
        stack, weight = self.decoder.dims, self.embedding.weight
        shape = (rows, stack.kv_heads, capacity, stack.head_dim)
        layers = [(weight.new_zeros(shape), weight.new_zeros(shape)) for _ in range(stack.layers)]
        length = torch.zeros(rows, dtype=torch.int64, device=weight.device)
        return StaticCache(
            layers=layers, length=length, source=source or [], source_length=source_length
        )

    def step(
        self,
        tokens: Tensor,
        new_length: Tensor,
        cache: StaticCache,
        queries: list[Tensor] | None = None,
    ) -> Tensor:
        """Append `new_length[r]` tokens to row r; logits after the last, (rows, vocab)."""
        hidden, _ = self.decode(
            tokens,
            cache.source,
            cache.source_length,
            start=cache.length,
            past=cache.layers,
            queries=queries,
        )
        cache.length = cache.length + new_length
        return self.last_logits(hidden, new_length)
