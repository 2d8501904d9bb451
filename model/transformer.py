"""The canonical Transformer: every supported family is this module with other `Dims`."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seq2edge.model import operators
from seq2edge.model.dims import Dims, StackDims
from seq2edge.model.layers import (
    Convolutions,
    Kept,
    KeyValue,
    Layer,
    Rotation,
    activation,
    norm,
)
from seq2edge.model.positions import RelativeBias, RelativePlaces, Rotary

UNSEEN = -32768.0  # added to the score of a key outside a window; exact in every float type
Heads: TypeAlias = tuple[tuple[int, ...], ...]  # pairs (decoder layer, head)


class Stack(nn.Module):
    """Embedded tokens or features in, hidden states out; encoder or decoder."""

    def __init__(
        self,
        stack: StackDims,
        width: int,
        *,
        causal: bool,
        source_width: int = 0,
        table_width: int = 0,
    ) -> None:
        """With `source_width` its layers attend to an encoder of that width."""
        super().__init__()
        self.dims = stack
        self.causal = causal
        count = 1 if stack.shared_layers else stack.layers
        layers = [Layer(stack, width, source_width=source_width, index=i) for i in range(count)]
        self.layers = nn.ModuleList(layers[i % count] for i in range(stack.layers))
        narrow = table_width or width
        self.embedding_norm = norm(stack, narrow) if stack.embedding_norm else nn.Identity()
        self.widen = nn.Linear(narrow, width) if table_width else nn.Identity()
        self.final_norm = norm(stack, width) if stack.final_norm else nn.Identity()
        self.dropout = nn.Dropout(0.0)  # its rate is set by training alone
        if stack.positions in ("learned", "sinusoidal"):
            self.positions = nn.Embedding(stack.max_positions, narrow)
        elif stack.positions == "rotary":
            self.rotary = Rotary(stack)
            if stack.window_theta:
                self.window_rotary = Rotary(stack, windowed=True)
        if stack.relative_span:
            self.places = RelativePlaces(stack)
        if stack.relative_buckets:
            tables = [
                RelativeBias(stack, bidirectional=not causal)
                for _ in range(stack.layers if stack.relative_layers else 1)
            ]
            if stack.relative_layers:
                self.relatives = nn.ModuleList(tables)
            else:
                self.relative = tables[0]

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        """Scale and place embedded tokens; positions (rows or 1, new).

        x (rows, new, width or table_width) -> (rows, new, width)
        """
        if self.dims.embedding_scale != 1.0:
            x = x * self.dims.embedding_scale
        if self.dims.norm_before_positions:
            x = self.embedding_norm(x)
        if self.dims.positions in ("learned", "sinusoidal"):
            x = x + self.positions(positions)
        x = self.dropout(x if self.dims.norm_before_positions else self.embedding_norm(x))
        return self.widen(x)

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

    def biases(self, positions: Tensor, keys: Tensor) -> list[Tensor]:
        """The relative biases (rows, heads, new, total): none, one for all layers, or one a layer.

        positions (rows, new); keys (total,) positions. With `relative_span` the places
        (2, total, total) from which each layer makes a bias.
        """
        if self.dims.relative_span:
            return [self.places(keys)]
        if not self.dims.relative_buckets:
            return []
        tables = self.relatives if self.dims.relative_layers else [self.relative]
        return [table(positions, keys) for table in tables]

    def masks(self, positions: Tensor, keys: Tensor) -> list[Tensor | None]:
        """What the tokens at `positions` (rows, new) see of `keys` (total,) in each layer.

        Each (rows, 1 or heads, new, total); None where that is everything.
        """
        mask_of = self._causal_mask if self.causal else self._bidirectional_mask
        biases: list[Tensor | None] = [*self.biases(positions, keys)] or [None]
        made: dict[tuple[int, int], Tensor | None] = {}
        masks = []
        for i, window in enumerate(self.dims.layer_windows):
            which = (window, i % len(biases))
            if which not in made:
                made[which] = mask_of(positions, keys, window, biases[which[1]])
            masks.append(made[which])
        return masks

    def _causal_mask(
        self, positions: Tensor, keys: Tensor, window: int, bias: Tensor | None
    ) -> Tensor:
        """Boolean; additive where there is a relative bias."""
        query = positions[:, :, None]  # (rows, new, 1)
        allowed = keys <= query
        if window:
            allowed = allowed & (keys > query - window)
        allowed = allowed[:, None]  # (rows, 1, new, total)
        return allowed if bias is None else bias.masked_fill(~allowed, float("-inf"))

    def _bidirectional_mask(
        self, positions: Tensor, keys: Tensor, window: int, bias: Tensor | None
    ) -> Tensor | None:
        """Additive. Finite, since behind the source's end a window may hold padding alone."""
        if not window and not self.dims.causal:
            return bias
        query = positions[:, None, :, None]  # (rows, 1, new, 1)
        visible = keys <= query if self.dims.causal else keys < query + window
        if window:
            visible = visible & (keys > query - window)
        hidden = (~visible).to(next(self.parameters()).dtype) * UNSEEN
        return hidden if bias is None else bias + hidden


@dataclasses.dataclass(kw_only=True)
class StaticCache:
    """What layers keep, in buffers of fixed capacity, written in place; row r holds `length[r]`."""

    layers: list[Kept]
    length: Tensor
    source: list[KeyValue]
    source_length: Tensor | None = None


class Transformer(nn.Module):
    """Encoder, decoder and head, each present or not as the dims say."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.dims = dims
        narrow = dims.table_width or dims.width
        self.embedding = nn.Embedding(dims.vocab, narrow)
        if dims.source_vocab:
            wide = dims.table_width or dims.source_width
            self.source_embedding = nn.Embedding(dims.source_vocab, wide)
        if dims.token_types:
            self.token_types = nn.Embedding(dims.token_types, narrow)
        source_width = 0
        if dims.encoder is not None:
            self.encoder = Stack(
                dims.encoder, dims.source_width, causal=False, table_width=dims.table_width
            )
            source_width = dims.width if dims.encoder_product else dims.source_width
        if dims.encoder_product:
            self.encoder_product = nn.Linear(dims.source_width, dims.width)
        if dims.decoder is not None:
            self.decoder = Stack(dims.decoder, dims.width, causal=True, source_width=source_width)
        if dims.mels:
            self.convolution1 = nn.Conv1d(dims.mels, dims.width, 3, padding=1)
            self.convolution2 = nn.Conv1d(dims.width, dims.width, 3, stride=2, padding=1)
        if dims.samples is not None:
            self.convolutions = Convolutions(dims.samples, dims.width)
        if dims.image is not None:
            patch = (dims.image.patch_height, dims.image.patch_width)
            self.patches = nn.Conv2d(dims.image.channels, dims.source_width, patch, stride=patch)
        self._add_head(dims)

    def _add_head(self, dims: Dims) -> None:
        if dims.head == "lm":
            self._add_logits(dims)
        elif dims.head == "classifier":
            if dims.classifier_dense:
                self._add_classifier_dense(dims)
            self.classifier_out = nn.Linear(dims.width, dims.labels, bias=dims.classifier_dense)
        elif dims.head in ("tokens", "span"):
            if dims.token_dense:
                self._add_classifier_dense(dims)
            self.token_out = nn.Linear(dims.width, dims.labels)
        elif dims.head in ("masked", "sparse"):
            if dims.classifier_dense:
                assert dims.encoder is not None
                narrow = dims.table_width or dims.width
                self.masked_dense = nn.Linear(dims.width, narrow, bias=dims.classifier_bias)
                self.masked_activation = activation(dims.classifier_activation)
                self.masked_norm = norm(dims.encoder, narrow)
            self._add_logits(dims)
        widths = (dims.width, *(each.width for each in dims.dense))
        self.dense = nn.ModuleList(
            nn.Linear(width, each.width, bias=each.bias)
            for width, each in zip(widths, dims.dense, strict=False)
        )

    def _add_classifier_dense(self, dims: Dims) -> None:
        self.classifier_dense = nn.Linear(dims.width, dims.width, bias=dims.classifier_bias)
        self.classifier_activation = activation(dims.classifier_activation)
        if dims.classifier_norm:
            assert dims.encoder is not None
            self.classifier_norm = norm(dims.encoder, dims.width)

    def _add_logits(self, dims: Dims) -> None:
        if not dims.tied:
            self.lm_head = nn.Linear(dims.table_width or dims.width, dims.vocab, bias=False)
        if dims.logits_bias:
            self.logits_bias = nn.Parameter(torch.zeros(dims.vocab))

    def encode(
        self,
        source: Tensor,
        source_length: Tensor,
        token_types: Tensor | None = None,
        sample_length: Tensor | None = None,
    ) -> Tensor:
        """Tokens (batch, source), features, samples or pixels -> (batch, source, width).

        Features are (batch, mels, frames), pixels (batch, channels, height, width); samples (batch,
        samples), of which `sample_length` (batch,) of each clip count. The width that comes out is
        the one which the decoder reads. Without `token_types` (batch, source) all tokens are of
        type 0.
        """
        if self.dims.mels:
            x = F.gelu(self.convolution1(source))
            x = F.gelu(self.convolution2(x)).transpose(1, 2)  # (batch, frames / 2, width)
        elif sample_length is not None:
            x = self.convolutions(source, sample_length)
        elif self.dims.image is not None:
            x = self.patches(source).flatten(2).transpose(1, 2)  # (batch, patches, width)
            x = F.pad(x, (0, 0, self.dims.image.tokens, 0))
        else:
            table = self.source_embedding if self.dims.source_vocab else self.embedding
            x = table(source)
        if self.dims.token_types:
            types = self.token_types
            x = x + (types.weight[0] if token_types is None else types(token_types))
        stack = self.encoder
        positions = (
            torch.arange(x.shape[1], device=x.device)
            if sample_length is None
            else operators.places(x, 1)
        )
        x = stack.embed(x, positions[None])
        # One row of angles for each input: no operator repeats them.
        rotations = stack.rotations(positions[None].expand(x.shape[0], -1))
        masks = stack.masks(positions[None], positions)
        for layer, rotation, mask in zip(stack.layers, rotations, masks, strict=True):
            x, _ = layer(x, rotation=rotation, mask=mask, length=source_length)
        x = stack.final_norm(x)
        return self.encoder_product(x) if self.dims.encoder_product else x

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
        past: list[Kept] | None = None,
        queries: list[Tensor] | None = None,
    ) -> tuple[Tensor, list[Kept]]:
        """tokens (rows, new) -> hidden (rows, new, width), and what each layer keeps.

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

        The mean of these heads' cross-attention weights, or with `alignment_by_head` the weights
        of each (rows, heads, source), by layers. `queries` are those that `decode` gave.
        """
        stack = self.decoder.dims
        rows = torch.arange(new_length.shape[0], device=new_length.device)
        by_layer: list[Tensor] = []
        for layer in sorted({pair[0] for pair in heads}):
            mine = [head for of, head in heads if of == layer]
            last = queries[layer][rows, new_length - 1]  # (rows, heads * head_dim)
            query = operators.fold_beams(last[:, None], source_length)
            query, key = operators.split_heads(query, stack.heads), source[layer][0]
            if mine != list(range(stack.heads)) or stack.kv_heads != stack.heads:
                query = query[:, mine]  # (batch, chosen, beams, head_dim)
                key = key[:, [head * stack.kv_heads // stack.heads for head in mine]]
            weights = operators.weigh(
                query,
                key,
                scale=stack.attention_scale,
                cap=stack.attention_cap,
                length=source_length,
            )
            by_layer.append(weights)  # (batch, chosen, beams, source)
        if self.dims.alignment_by_head:
            return operators.flatten_heads(torch.cat(by_layer, dim=1))
        total = sum(weights.sum(dim=1) for weights in by_layer)  # (batch, beams, source)
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
            return self.token_out(self._before_classes(encoded))
        if self.dims.head in ("masked", "sparse"):
            logits = self._masked_logits(encoded)
            return logits if self.dims.head == "masked" else self._weights(logits, source_length)
        if self.dims.late_pooling:
            encoded = self._before_classes(encoded)
        pooled = self._pooled(encoded, source_length)
        if self.dims.head == "classifier":
            dense = pooled if self.dims.late_pooling else self._before_classes(pooled)
            return self.classifier_out(dense)
        return self.embedding_of(pooled)

    def _masked_logits(self, encoded: Tensor) -> Tensor:
        """What may stand in each token's place, (batch, source, vocab)."""
        hidden = encoded
        if self.dims.classifier_dense:
            hidden = self.masked_norm(self.masked_activation(self.masked_dense(encoded)))
        flat = hidden.flatten(0, 1)  # so that a tied table is stored once
        return self.logits(flat).reshape(*encoded.shape[:2], -1)

    def _weights(self, logits: Tensor, length: Tensor) -> Tensor:
        """The largest log(1 + relu) of each token's logits (batch, source, vocab) over a text."""
        valid = torch.arange(logits.shape[1], device=logits.device) < length[:, None]
        largest = logits.masked_fill(~valid[:, :, None], float("-inf")).amax(dim=1)
        return torch.log1p(torch.relu(largest))  # both rise, so the largest stays the largest

    def embedding_of(self, pooled: Tensor) -> Tensor:
        """What becomes of pooled states (..., width): products, and the length 1."""
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

    def _before_classes(self, x: Tensor) -> Tensor:
        """A head's first product and what follows it, where it has one, x (..., width)."""
        dims = self.dims
        if not (dims.classifier_dense if dims.head == "classifier" else dims.token_dense):
            return x
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
        layers = [
            tuple(weight.new_zeros(rows, n, capacity, size) for n, size in kept.values())
            for kept in stack.caches(self.dims.width)
        ]
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
