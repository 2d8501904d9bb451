"""Sizes and choices of a Transformer, without torch.

A checkpoint's config becomes one `Dims`; everything after it (layers, graphs, manifest, runtime)
asks the dims and never the name of the family.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from seq2edge.errors import UnsupportedError

ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu")
NORMS = ("layer", "rms")
POSITIONS = ("learned", "sinusoidal", "rotary", "relative")
HEADS = ("lm", "classifier", "embedding", "tokens", "span", "masked", "sparse")
POOLINGS = ("first", "last", "max", "mean")
MIXERS = ("attention", "recurrence", "convolution")  # what brings a layer's tokens together
# What no model is beyond: checked before anything is made that grows with them.
LARGEST = {
    **dict.fromkeys(("layers", "heads", "kv_heads", "tokens", "taps", "mels", "channels"), 2**12),
    **dict.fromkeys(("height", "patch_height", "patch_width", "head_dim"), 2**14),
    **dict.fromkeys(("width", "encoder_width", "table_width", "token_types"), 2**20),
    **dict.fromkeys(("hidden", "vocab", "source_vocab", "labels"), 2**24),
    "max_positions": 2**30,
}
LARGEST_SOURCE = 2**26  # values of one clip or image
LARGEST_TAP, MOST_CONVOLUTIONS = 2**12, 8  # of what reads samples
_TASKS = {
    "lm": "generate",
    "classifier": "classify",
    "embedding": "embed",
    "tokens": "tag",  # classes of each token
    "span": "answer",  # of each token: whether an answer begins there, and whether it ends there
    "masked": "fill",  # the vocabulary at each token
    "sparse": "weigh",  # the vocabulary's weights for a text (SPLADE, Formal et al. 2021)
}


def later(default: Any) -> Any:
    """A field that bundles written before it do not have; `files/records.py` reads its default."""
    return dataclasses.field(default=default, metadata={"optional": True})


@dataclasses.dataclass(frozen=True, kw_only=True)
class StackDims:
    """One stack of layers, encoder or decoder."""

    layers: int
    heads: int  # query heads
    # Heads of keys and values; fewer than `heads` where query heads share one (grouped-query
    # attention, Ainslie et al. 2023). With 4 query heads:
    #
    #     kv_heads = 4       kv_heads = 2       kv_heads = 1
    #     q  q  q  q         q  q  q  q         q  q  q  q
    #     |  |  |  |          \/    \/           \  \/  /
    #     kv kv kv kv         kv    kv              kv
    kv_heads: int
    head_dim: int  # width of one head; heads * head_dim need not be the model's width
    hidden: int  # width between the two products of the feed-forward
    activation: str  # between those two: one of ACTIVATIONS
    gated: bool = False  # activation(gate) * up instead of activation(up) (Shazeer 2020)
    norm: str = "layer"  # one of NORMS: LayerNorm, or RMSNorm (Zhang and Sennrich 2019)
    norm_epsilon: float = 1e-5  # added to the variance below the root
    norm_bias: bool = later(True)  # of LayerNorm
    pre_norm: bool = True  # x + f(norm(x)); False: norm(x + f(x)), as in Vaswani et al. 2017
    output_norm: bool = later(False)  # x + norm(f(norm(x))); without `pre_norm` x + norm(f(x))
    first_norm: bool = later(True)  # False: the first attention reads what is embedded
    parallel: bool = later(False)  # x + attention(norm(x)) + feedforward(norm(x)), as in GPT-J
    final_norm: bool = True  # one more norm behind the last layer
    embedding_norm: bool = False  # and one behind the embedding
    norm_before_positions: bool = later(False)  # the last before positions are added
    positions: str = "learned"  # one of POSITIONS
    max_positions: int = 0  # rows of the table of positions; 0: no limit (rotary, relative)
    position_offset: int = later(0)  # rows of a foreign table of positions before the first token's
    relative_buckets: int = 0  # T5: how many biases per head
    relative_layers: bool = later(False)  # each layer has such biases of its own (umT5)
    # DeBERTa: rows to either side in tables of relative positions that every layer has for keys and
    # queries (He et al. 2021): scores depend on what stands there too.
    relative_span: int = later(0)
    relative_distance: int = 0  # all distances from there on share the last bucket, or the last row
    rotary_theta: float = 0.0  # base of the rotary frequencies
    rotary_dim: int = later(0)  # >0: only so many values of each head are rotated, the first ones
    rotary_divisors: tuple[float, ...] = later(
        ()
    )  # of every frequency, for longer texts; (): all 1
    rotary_magnitude: float = later(1.0)  # cosines and sines are multiplied by it
    window_theta: float = later(0.0)  # >0: base in layers with a window, which nothing else scales
    unrotated_layers: tuple[int, ...] = later(())  # these do without positions
    embedding_scale: float = 1.0  # embedded tokens are multiplied by it, often by sqrt(width)
    residual_scale: float = later(1.0)  # so is what attention and feed-forward add
    attention_scale: float = 1.0  # so are attention scores, often by 1 / sqrt(head_dim)
    attention_cap: float = later(0.0)  # >0: a score s becomes cap * tanh(s / cap)
    qkv_bias: bool = True  # of the products that make queries, keys and values
    attention_bias: bool = True  # of the product behind the heads
    feedforward_bias: bool = True
    qk_norm: bool = False  # RMSNorm of each query and key head, before the rotation
    shared_layers: bool = later(False)  # all layers have the same weights (Lan et al. 2020)
    qk_norm_whole: bool = later(False)  # one of all query heads together, and one of all key heads
    # >0: a token attends to those less than so many tokens away, itself included.
    window: int = 0
    causal: bool = later(False)  # of an encoder: a token attends to those before it, and itself
    windows: tuple[int, ...] = later(())  # the same of each layer, where they differ
    # One of MIXERS for each layer; (): attention in all. A recurrence is an SSRU (Kim et al. 2019):
    # what a token adds to the state, and how much of it stays, depends on that token alone.
    mixers: tuple[str, ...] = later(())
    taps: int = later(0)  # tokens that a convolution sums up, the last one included

    def __post_init__(self) -> None:
        _bound(self, ("heads", "kv_heads"))
        _choose("activation", self.activation, ACTIVATIONS)
        _choose("norm", self.norm, NORMS)
        _choose("positions", self.positions, POSITIONS)
        if self.heads % self.kv_heads:
            raise UnsupportedError(
                f"kv_heads: {self.heads} heads cannot share {self.kv_heads} key heads evenly"
            )
        if len(self.windows) not in (0, self.layers):
            raise UnsupportedError(f"windows: {len(self.windows)} of them for {self.layers} layers")
        for mixer in self.mixers:
            _choose("mixers", mixer, MIXERS)
        if len(self.mixers) not in (0, self.layers):
            raise UnsupportedError(f"mixers: {len(self.mixers)} of them for {self.layers} layers")
        if "convolution" in self.mixers and self.taps < 2:
            raise UnsupportedError(f"taps: {self.taps} of a convolution, needs 2 or more")
        if self.rotary_dim % 2 or self.rotary_dim > self.head_dim:
            raise UnsupportedError(
                f"rotary_dim: {self.rotary_dim} is not an even part of heads of {self.head_dim}"
            )

    @property
    def query_width(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Width of all key (or value) heads together."""
        return self.kv_heads * self.head_dim

    @property
    def layer_windows(self) -> tuple[int, ...]:
        """The window of every layer, 0 where it sees everything."""
        return self.windows or (self.window,) * self.layers

    @property
    def layer_mixers(self) -> tuple[str, ...]:
        """What every layer has in the place of self-attention, one of MIXERS."""
        return self.mixers or ("attention",) * self.layers

    def caches(self, width: int) -> list[dict[str, tuple[int, int]]]:
        """What each layer keeps of the tokens before, by name: (heads, head_dim) of a token.

        Attention keeps keys and values. A recurrence keeps its state behind every token, not the
        last one alone, and a convolution what it sums up of every token: so a row can go back, and
        rows share what they have in common.
        """
        attention = dict.fromkeys(("key", "value"), (self.kv_heads, self.head_dim))
        state = {"state": (1, width)}
        kept = {"attention": attention, "recurrence": state, "convolution": state}
        return [kept[mixer] for mixer in self.layer_mixers]

    @property
    def rotated(self) -> int:
        """Values of each head that are rotated."""
        return self.rotary_dim or self.head_dim


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseDims:
    """One product of pooled embeddings."""

    width: int  # of what it gives
    activation: str = ""  # of that, one of ACTIVATIONS or tanh; empty: none
    bias: bool = True

    def __post_init__(self) -> None:
        _bound(self, ("width",))
        _choose("activation", self.activation, ("", "tanh", *ACTIVATIONS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageDims:
    """Images of one size, read in patches that do not overlap (Dosovitskiy et al. 2021)."""

    height: int  # pixels
    width: int
    channels: int
    patch_height: int
    patch_width: int
    # Positions before the patches that hold nothing of the image: what was learnt for them stands
    # in the table of positions (ViT's class token; DeiT has one for distillation too).
    tokens: int

    def __post_init__(self) -> None:
        _bound(self, ("channels", "patch_height", "patch_width"))
        if self.height < self.patch_height or self.width < self.patch_width:
            raise UnsupportedError(
                f"image: {self.height} x {self.width} pixels hold no patch of "
                f"{self.patch_height} x {self.patch_width}"
            )

    @property
    def positions(self) -> int:
        """What the encoder has of one image: tokens and whole patches, row by row."""
        rows, columns = self.height // self.patch_height, self.width // self.patch_width
        return self.tokens + rows * columns


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleDims:
    """Samples as they are, (length,), read by convolutions one after the other, without padding.

    Of Moonshine (Jeffries et al. 2024): tanh behind the first one and a norm over the whole clip,
    GELU behind each other. A convolution is its taps, the step between two of its outputs, and how
    many times the model's width it gives.
    """

    convolutions: tuple[tuple[int, int, int], ...]
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        sizes = [size for convolution in self.convolutions for size in convolution]
        whole = all(len(convolution) == len(_CONVOLUTION) for convolution in self.convolutions)
        if not whole or not 1 <= len(self.convolutions) <= MOST_CONVOLUTIONS:
            raise UnsupportedError(
                f"samples: 1 to {MOST_CONVOLUTIONS} convolutions of {', '.join(_CONVOLUTION)} each"
            )
        if not all(1 <= size <= LARGEST_TAP for size in sizes):
            raise UnsupportedError(f"samples: convolutions of 1 to {LARGEST_TAP}, not {sizes}")
        if self.convolutions[-1][2] != 1:
            raise UnsupportedError("samples: the last convolution gives another width")

    def positions(self, length: Any) -> Any:
        """Encoder positions of so many samples, a number or an array; below 1 of too few."""
        for taps, step, _ in self.convolutions:
            length = (length - taps) // step + 1
        return length

    def length(self, positions: int) -> int:
        """The fewest samples of so many positions."""
        for taps, step, _ in reversed(self.convolutions):
            positions = (positions - 1) * step + taps
        return positions


_CONVOLUTION = ("taps", "step", "widths")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dims:
    """A whole model. `encoder` or `decoder` is None where the model has none."""

    width: int  # of embeddings and of the residual stream
    vocab: int  # rows of the decoder's (or only) embedding table, and logits
    encoder: StackDims | None = None
    decoder: StackDims | None = None
    head: str = "lm"  # what stands behind the last layer, one of HEADS
    source_vocab: int = 0  # rows of the encoder's own table; 0: it shares the decoder's
    tied: bool = True  # the LM head is the embedding table
    logits_bias: bool = False  # one bias per token of the vocabulary
    logits_scale: float = 1.0  # hidden states are multiplied by it before the LM head
    logits_cap: float = later(0.0)  # >0: so do logits
    mels: int = 0  # >0: the encoder reads log-mel features of so many bands, not tokens
    # The encoder reads images of this size.
    image: ImageDims | None = later(None)  # noqa: RUF009 - it gives a field
    # It reads a clip's samples, of any length up to its positions.
    samples: SampleDims | None = later(None)  # noqa: RUF009
    encoder_width: int = later(0)  # >0: of the encoder's residual stream, where that is another
    encoder_product: bool = later(False)  # one product gives what it says the decoder's width
    # >0: tables of tokens and positions are that narrow, and one product widens what they give:
    # factorised embeddings (Lan et al. 2020).
    table_width: int = later(0)
    token_types: int = 0  # >0: rows of BERT's table of segments; 1: the one that all tokens have
    labels: int = 0  # classes of a classifier, of a text or of each token
    classifier_dense: bool = later(True)  # False: the second of a head's products alone, no bias
    token_dense: bool = later(False)  # both stand before the classes of each token too
    classifier_bias: bool = later(True)  # of the first of a head's two products
    classifier_activation: str = ""  # between the two products of a head
    classifier_norm: bool = later(False)  # and the encoder's kind of norm behind that
    late_pooling: bool = later(False)  # positions are summed up between the products, not before
    pooling: str = ""  # how an encoder-only model sums up its positions, one of POOLINGS
    normalize: bool = False  # embeddings have the length 1
    dense: tuple[DenseDims, ...] = later(())  # products behind the pooling, before `normalize`

    def __post_init__(self) -> None:
        _bound(self, ("width", "vocab"))
        _choose("head", self.head, HEADS)
        if self.pooling:
            _choose("pooling", self.pooling, POOLINGS)
        if self.encoder is None and self.decoder is None:
            raise UnsupportedError("dims: neither an encoder nor a decoder")
        for name in ("image", "samples"):
            others = self.mels or (self.image and self.samples)
            if getattr(self, name) is not None and (others or self.kind != "encoder-decoder"):
                raise UnsupportedError(
                    f"{name}: an encoder reads it for a decoder, and nothing beside it"
                )
        if self.image and self.encoder and self.encoder.max_positions != self.image.positions:
            raise UnsupportedError(
                f"image: it has {self.image.positions} positions, the encoder "
                f"{self.encoder.max_positions}"
            )
        if math.prod(self.source_shape) > LARGEST_SOURCE:
            raise UnsupportedError(
                f"{self.source_name}: {self.source_shape} values, at most {LARGEST_SOURCE:,} in all"
            )
        if self.samples is not None and not 0 < self.longest_clip <= LARGEST_SOURCE:
            raise UnsupportedError(
                f"samples: {self.longest_clip:,} of the longest clip, 1 to {LARGEST_SOURCE:,}"
            )

    @property
    def kind(self) -> str:
        """`encoder-decoder`, `decoder` or `encoder`."""
        if self.decoder is None:
            return "encoder"
        return "decoder" if self.encoder is None else "encoder-decoder"

    @property
    def embedding_width(self) -> int:
        """Values of a text's embedding."""
        width = self.vocab if self.head == "sparse" else self.width
        return self.dense[-1].width if self.dense else width

    @property
    def task(self) -> str:
        """What it is made to do, in the manifest's words."""
        if self.image is not None:
            return "read"
        return "transcribe" if self.mels or self.samples else _TASKS[self.head]

    @property
    def reads_signal(self) -> bool:
        """Whether its encoder reads clips or images, and no ids."""
        return self.source_name != "input_ids"

    @property
    def frames(self) -> int:
        """Feature frames that the encoder takes; its convolutions halve them."""
        return 2 * self.encoder.max_positions if self.mels and self.encoder else 0

    @property
    def alignment_by_head(self) -> bool:
        """Whether an alignment tells its heads apart: times of words are found that way."""
        return self.mels > 0

    @property
    def source_name(self) -> str:
        """What the encoder's graph calls what it reads."""
        if self.samples is not None:
            return "samples"
        return "pixels" if self.image else "features" if self.mels else "input_ids"

    @property
    def source_shape(self) -> tuple[int, ...]:
        """Of one input, where all are alike: (mels, frames) or (channels, height, width)."""
        if self.image is not None:
            return self.image.channels, self.image.height, self.image.width
        return (self.mels, self.frames) if self.mels else ()

    @property
    def source_positions(self) -> int:
        """Encoder positions of one such input; 0 where inputs have lengths of their own."""
        return self.image.positions if self.image is not None else self.frames // 2

    def positions_of(self, lengths: Any) -> Any:
        """Encoder positions of sources of these lengths, as `Backend.encode` is given them."""
        return lengths if self.samples is None else self.samples.positions(lengths)

    @property
    def longest_clip(self) -> int:
        """The most samples that an encoder of samples has positions for."""
        if self.samples is None or self.encoder is None or not self.encoder.max_positions:
            return 0
        return self.samples.length(self.encoder.max_positions + 1) - 1

    @property
    def source_width(self) -> int:
        """Width of the encoder's residual stream."""
        return self.encoder_width or self.width

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as the manifest keeps them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Dims:
        """The inverse of `to_dict`. Raises TypeError for unknown or missing keys."""
        stacks = {
            side: StackDims(**_tupled(values[side])) if values.get(side) is not None else None
            for side in ("encoder", "decoder")
        }
        dense = tuple(DenseDims(**each) for each in values.get("dense", ()))
        image = ImageDims(**values["image"]) if values.get("image") is not None else None
        samples = None
        if values.get("samples") is not None:
            convolutions = tuple(map(tuple, values["samples"].get("convolutions", ())))
            samples = SampleDims(**{**values["samples"], "convolutions": convolutions})
        parts = {**stacks, "dense": dense, "image": image, "samples": samples}
        return cls(**{**values, **parts})


def _tupled(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists alone."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}


def _bound(record: Any, needed: tuple[str, ...]) -> None:
    """No size is beyond LARGEST, and none of the `needed` ones 0."""
    for name, value in vars(record).items():
        most = LARGEST.get(name)
        if most is not None and not (name in needed) <= value <= most:
            raise UnsupportedError(f"{name}: {value}, a model has {int(name in needed)} to {most}")


def _choose(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UnsupportedError(f"{name}: {value!r} is not supported, known: {', '.join(known)}")
