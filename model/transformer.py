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

Heads: TypeAlias = tuple[tuple[int, ...], ...]  # pairs (decoder layer, head)


class Stack(nn.Module):
    """Embedded tokens or features in, hidden states out; encoder or decoder."""

    def __init__(self, stack: StackDims, width: int, *, causal: bool, cross: bool) -> None:
        super().__init__()
        self.dims = stack
        self.causal = causal
        self.layers = nn.ModuleList(Layer(stack, width, cross=cross) for _ in range(stack.layers))
        self.embedding_norm = norm(stack, width) if stack.embedding_norm else nn.Identity()
        self.final_norm = norm(stack, width) if stack.final_norm else nn.Identity()
        self.dropout = nn.Dropout(0.0)  # its rate is set by training alone
        if stack.positions in ("learned", "sinusoidal"):
            self.positions = nn.Embedding(stack.max_positions, width)
        elif stack.positions == "rotary":
            self.rotary = Rotary(stack)
        else:
            self.relative = RelativeBias(stack, bidirectional=not causal)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        """Scale and place embedded tokens x (rows, new, width); positions (rows or 1, new)."""
        if self.dims.embedding_scale != 1.0:
            x = x * self.dims.embedding_scale
        if self.dims.positions in ("learned", "sinusoidal"):
            x = x + self.positions(positions)
        return self.dropout(self.embedding_norm(x))

    def rotation(self, positions: Tensor) -> Rotation:
        """Rotary angles of these positions, or None."""
        return self.rotary(positions) if self.dims.positions == "rotary" else None

    def causal_mask(self, positions: Tensor, capacity: Tensor) -> Tensor:
        """Which cached keys a token may see; additive where there is a relative bias.

        positions (rows, new); capacity (capacity,) key positions. (rows, 1 or heads, new, capacity)
        """
        query = positions[:, :, None]  # (rows, new, 1)
        allowed = capacity <= query
        if self.dims.window:
            allowed = allowed & (capacity > query - self.dims.window)
        if self.dims.positions == "relative":
            bias = self.relative(positions, capacity)  # (rows, heads, new, capacity)
            return bias.masked_fill(~allowed[:, None], float("-inf"))
        return allowed[:, None]  # (rows, 1, new, capacity)


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
            self._add_logits(dims)
        elif dims.head == "classifier":
            self.classifier_dense = nn.Linear(dims.width, dims.width)
            self.classifier_out = nn.Linear(dims.width, dims.labels)
            self.classifier_activation = activation(dims.classifier_activation)
        elif dims.head in ("tokens", "span"):
            self.token_out = nn.Linear(dims.width, dims.labels)
        elif dims.head == "masked":
            assert dims.encoder is not None
            self.masked_dense = nn.Linear(dims.width, dims.width)
            self.masked_activation = activation(dims.classifier_activation)
            self.masked_norm = norm(dims.encoder, dims.width)
            self._add_logits(dims)
        widths = (dims.width, *(each.width for each in dims.dense))
        self.dense = nn.ModuleList(
            nn.Linear(width, each.width, bias=each.bias)
            for width, each in zip(widths, dims.dense, strict=False)
        )

    def _add_logits(self, dims: Dims) -> None:
        if not dims.tied:
            self.lm_head = nn.Linear(dims.width, dims.vocab, bias=False)
        if dims.logits_bias:
            self.logits_bias = nn.Parameter(torch.zeros(dims.vocab))

    def encode(
        self, source: Tensor, source_length: Tensor, token_types: Tensor | None = None
    ) -> Tensor:
        """Tokens (batch, source) or features (batch, mels, frames) -> (batch, source, width).

        Without `token_types` (batch, source) all tokens are of type 0.
        """
        if self.dims.mels:
            x = F.gelu(self.convolution1(source))
            x = F.gelu(self.convolution2(x)).transpose(1, 2)  # (batch, frames / 2, width)
        else:
            table = self.source_embedding if self.dims.source_vocab else self.embedding
            x = table(source)
        if self.dims.token_types:
            types = self.token_types
            x = x + (types.weight[0] if token_types is None else types(token_types))
        positions = torch.arange(x.shape[1], device=x.device)
        x = self.encoder.embed(x, positions[None])
        mask = None
        if self.encoder.dims.positions == "relative":
            mask = self.encoder.relative(positions[None], positions)
        for layer in self.encoder.layers:
            x, _ = layer(x, mask=mask, length=source_length)
        return self.encoder.final_norm(x)

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
        rotation, mask = stack.rotation(positions), stack.causal_mask(positions, keys)
        present = []
        for index, layer in enumerate(stack.layers):
            x, key_value = layer(
                x,
                rotation=rotation,
                mask=mask,
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
        return F.linear(hidden, weight, self.logits_bias if self.dims.logits_bias else None)

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

    def pool(
        self, source: Tensor, source_length: Tensor, token_types: Tensor | None = None
    ) -> Tensor:
        """Class logits (batch, labels) or embeddings (batch, width) of an encoder-only model.

        Of a head that answers each token its logits (batch, source, labels or vocab).
        """
        encoded = self.encode(source, source_length, token_types)
        if self.dims.head in ("tokens", "span"):
            return self.token_out(encoded)
        if self.dims.head == "masked":
            hidden = self.masked_activation(self.masked_dense(encoded))
            flat = self.masked_norm(hidden).flatten(0, 1)  # so that a tied table is stored once
            return self.logits(flat).reshape(*encoded.shape[:2], -1)
        pooled = self._pooled(encoded, source_length)
        if self.dims.head == "classifier":
            dense = self.classifier_dense(pooled)
            return self.classifier_out(self.classifier_activation(dense))
        for product, each in zip(self.dense, self.dims.dense, strict=True):
            pooled = product(pooled)
            pooled = activation(each.activation)(pooled) if each.activation else pooled
        return F.normalize(pooled, dim=-1) if self.dims.normalize else pooled

    def _pooled(self, encoded: Tensor, length: Tensor) -> Tensor:
        """One vector of the valid positions of encoded (batch, source, width)."""
        places = torch.arange(encoded.shape[1], device=encoded.device)
        valid = (places < length[:, None])[:, :, None]  # (batch, source, 1)
        if self.dims.pooling == "mean":
            total = (encoded * valid.to(encoded.dtype)).sum(dim=1)
            return total / length[:, None].clamp(min=1).to(encoded.dtype)
        if self.dims.pooling == "max":
            return encoded.masked_fill(~valid, float("-inf")).amax(dim=1)
        if self.dims.pooling == "last":
            return encoded[torch.arange(encoded.shape[0], device=encoded.device), length - 1]
        return encoded[:, 0]

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
