"""Sizes and choices of a Transformer, without torch.

A checkpoint's config becomes one `Dims`; everything after it (layers, graphs, manifest, runtime)
asks the dims and never the name of the family.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from seq2edge.errors import UnsupportedError

ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu")
NORMS = ("layer", "rms")
POSITIONS = ("learned", "sinusoidal", "rotary", "relative")
HEADS = ("lm", "classifier", "embedding")
POOLINGS = ("first", "mean")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StackDims:
    """One stack of layers, encoder or decoder."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    activation: str
    gated: bool = False
    norm: str = "layer"
    norm_epsilon: float = 1e-5
    pre_norm: bool = True
    final_norm: bool = True
    embedding_norm: bool = False
    positions: str = "learned"
    max_positions: int = 0
    relative_buckets: int = 0
    relative_distance: int = 0
    rotary_theta: float = 0.0
    embedding_scale: float = 1.0
    attention_scale: float = 1.0
    qkv_bias: bool = True
    attention_bias: bool = True
    feedforward_bias: bool = True
    qk_norm: bool = False
    window: int = 0

    def __post_init__(self) -> None:
        _choose("activation", self.activation, ACTIVATIONS)
        _choose("norm", self.norm, NORMS)
        _choose("positions", self.positions, POSITIONS)
        if self.heads % self.kv_heads:
            raise UnsupportedError(
                f"kv_heads: {self.heads} heads cannot share {self.kv_heads} key heads evenly"
            )

    @property
    def query_width(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Width of all key (or value) heads together."""
        return self.kv_heads * self.head_dim


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dims:
    """A whole model. `encoder` or `decoder` is None where the model has none."""

    width: int
    vocab: int
    encoder: StackDims | None = None
    decoder: StackDims | None = None
    head: str = "lm"
    source_vocab: int = 0  # 0: the encoder shares the decoder's table
    tied: bool = True  # the LM head is the embedding table
    logits_bias: bool = False
    logits_scale: float = 1.0
    mels: int = 0  # >0: the encoder reads log-mel features, not tokens
    token_types: int = 0
    labels: int = 0
    classifier_activation: str = ""
    pooling: str = ""
    normalize: bool = False

    def __post_init__(self) -> None:
        _choose("head", self.head, HEADS)
        if self.pooling:
            _choose("pooling", self.pooling, POOLINGS)
        if self.encoder is None and self.decoder is None:
            raise UnsupportedError("dims: neither an encoder nor a decoder")

    @property
    def kind(self) -> str:
        """`encoder-decoder`, `decoder` or `encoder`."""
        if self.decoder is None:
            return "encoder"
        return "decoder" if self.encoder is None else "encoder-decoder"

    @property
    def frames(self) -> int:
        """Feature frames that the encoder takes; its convolutions halve them."""
        return 2 * self.encoder.max_positions if self.mels and self.encoder else 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as the manifest keeps them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Dims:
        """The inverse of `to_dict`. Raises TypeError for unknown or missing keys."""
        stacks = {
            side: StackDims(**values[side]) if values.get(side) is not None else None
            for side in ("encoder", "decoder")
        }
        return cls(**{**values, **stacks})


def _choose(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UnsupportedError(f"{name}: {value!r} is not supported, known: {', '.join(known)}")
