"""What a bundle's graphs take and give, by the sizes of its model: see ARCHITECTURE.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from seq2edge.bundle.engine_info import ALIGNMENT, SAMPLE_LENGTH, SEGMENTS
from seq2edge.model.dims import Dims, StackDims

Shape: TypeAlias = tuple[int | str, ...]

# What the names of inputs and outputs begin with: caches, and encoder memories.
PAST, PRESENT, CROSS = "past_", "present_", "cross_"

AVERAGED: Shape = ("rows", "source")  # of an alignment that is the mean of its heads


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contract:
    """Names and shapes of a graph's inputs and outputs; strings are the contract's symbols."""

    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]


def encoder_contract(dims: Dims) -> Contract:
    """What `encoder.onnx` takes and gives."""
    source: Shape = ("batch", *(dims.source_shape or ("source",)))
    if dims.samples is not None:
        source = ("batch", "samples")
    outputs: Mapping[str, Shape]
    if dims.kind == "encoder":
        by_head: dict[str, dict[str, Shape]] = {
            "classifier": {"logits": ("batch", dims.labels)},
            "embedding": {"embedding": ("batch", dims.embedding_width)},
            "tokens": {"logits": ("batch", "source", dims.labels)},
            "span": {"logits": ("batch", "source", dims.labels)},
            "sparse": {"embedding": ("batch", dims.embedding_width)},
            "masked": {"logits": ("batch", "source", dims.vocab)},
        }
        outputs = by_head[dims.head]
    else:
        assert dims.decoder is not None
        outputs = _cross_shapes(dims.decoder, dims.source_positions or "source")
    inputs: dict[str, Shape] = {dims.source_name: source, "source_length": ("batch",)}
    if dims.kind == "encoder" and dims.token_types > 1:
        inputs[SEGMENTS] = source
    if dims.samples is not None:
        inputs[SAMPLE_LENGTH] = ("batch",)
    return Contract(inputs=inputs, outputs=outputs)


def decoder_contract(
    dims: Dims, *, alignment: Shape | None = None, memories: Iterable[str] = ()
) -> Contract:
    """What `decoder.onnx` takes and gives; with the shape of an `alignment`, that too.

    Of encoder memories that are caches to it, those of these names, it gives what it was given.
    """
    assert dims.decoder is not None
    inputs: dict[str, Shape] = {
        "input_ids": ("rows", "new"),
        "new_length": ("rows",),
        "cache_length": ("rows",),
    }
    if dims.encoder is not None:
        inputs["source_length"] = ("batch",)
        inputs |= _cross_shapes(dims.decoder, "source")
    inputs |= _cache_shapes(PAST, dims)
    outputs: dict[str, Shape] = {"logits": ("rows", dims.vocab)}
    outputs |= _cache_shapes(PRESENT, dims)
    outputs |= {present_of(name): inputs[name] for name in memories if name in inputs}
    if alignment is not None:
        outputs[ALIGNMENT] = alignment
    return Contract(inputs=inputs, outputs=outputs)


def present_of(name: str) -> str:
    """The output that a cache of this name is given out as."""
    return PRESENT + name.removeprefix(PAST)


def alignment_shape(dims: Dims, heads: int) -> Shape:
    """What a decoder gives as `alignment`: the heads' mean, or of speech each head's weights."""
    return ("rows", heads, "source") if dims.alignment_by_head else AVERAGED


def _cross_shapes(stack: StackDims, length: str | int) -> dict[str, Shape]:
    shape: Shape = ("batch", stack.kv_heads, length, stack.head_dim)
    return {
        f"{CROSS}{part}_{layer}": shape
        for layer in range(stack.layers)
        for part in ("key", "value")
    }


def _cache_shapes(prefix: str, dims: Dims) -> dict[str, Shape]:
    assert dims.decoder is not None
    return {
        f"{prefix}{part}_{layer}": ("rows", heads, "capacity", size)
        for layer, kept in enumerate(dims.decoder.caches(dims.width))
        for part, (heads, size) in kept.items()
    }
