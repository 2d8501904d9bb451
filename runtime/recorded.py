"""A bundle's reference, held against the program that records it: see `runtime/parity.py`.

What does not follow the program proves nothing, and what is beyond the model's sizes crashes it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle import Bundle
from seq2edge.bundle.manifest import MANIFEST
from seq2edge.bundle.reference import REFERENCE, read_reference
from seq2edge.errors import BundleError
from seq2edge.files.records import RecordError, record_errors
from seq2edge.model.dims import Dims
from seq2edge.runtime.parity import BEAMS, FLOAT32_ERROR, STEPS, TOP, Arrays

# What a float32 model may err of its largest logit; the references of more would allow anything.
MOST_ERROR = 2.0**-7
MOST_LOSS = 2.0  # and a quantized model, which answers nothing with an error of 1

Shape = tuple[int | None, ...]  # None: any length of at least 1


def read_recorded(bundle: Bundle) -> Arrays:
    """The arrays of a bundle's reference.

    Raises BundleError where there is none, and for one that its program did not record of a model
    of these sizes.
    """
    path = bundle.path / REFERENCE
    if REFERENCE not in bundle.manifest.files:
        raise BundleError(f"{path}: missing, nothing says what the model answers")
    reference = read_reference(path)
    with record_errors(path, BundleError):
        largest = _check_program(reference, bundle.manifest.dims)
    measured = bundle.manifest.parity
    if bundle.manifest.quantization and measured and measured.max_absolute > MOST_LOSS * largest:
        raise BundleError(
            f"{bundle.path / MANIFEST}: parity: an error of {measured.max_absolute:.1e} where "
            f"{largest:.1e} was recorded allows any answer"
        )
    return reference


def _check_program(reference: Arrays, dims: Dims) -> float:
    """Each check relies on those before it; the largest value."""
    if dims.encoder is not None:
        _check_sources(reference, dims)
    if dims.kind == "encoder":
        _check_pooled(reference, dims)
        largest = _largest(reference, ["pooled"])
    else:
        _check_prompts(reference, dims)
        _check_steps(reference, dims)
        largest = _largest(reference, [f"top_logits_{i}" for i in range(STEPS + 1)])
    if FLOAT32_ERROR in reference:
        _check_array(reference, FLOAT32_ERROR, "f", ())
        error = float(reference[FLOAT32_ERROR])
        if not 0 <= error <= MOST_ERROR * largest:
            raise RecordError(f"{FLOAT32_ERROR}: {error:.1e} of {largest:.1e} allows any answer")
    return largest


def _largest(reference: Arrays, names: list[str]) -> float:
    return max(float(np.abs(reference[name]).max()) for name in names)


def _check_sources(reference: Arrays, dims: Dims) -> None:
    least = 1
    if dims.source_shape:
        _check_array(reference, "source", "f", (None, *dims.source_shape))
        longest = dims.source_positions
    elif dims.samples is not None:
        _check_array(reference, "source", "f", (None, None))
        longest, least = reference["source"].shape[1], dims.samples.length(1)
    else:
        _check_ids(reference, "source", dims.source_vocab or dims.vocab, (None, None))
        longest = reference["source"].shape[1]
    batch = len(reference["source"])
    _check_ids(reference, "source_length", longest + 1, (batch,), least=least)
    if "token_types" in reference:
        shape = reference["source"].shape
        _check_ids(reference, "token_types", max(1, dims.token_types), shape)


def _check_pooled(reference: Arrays, dims: Dims) -> None:
    """Of each token where the model answers each."""
    values = {"classifier": dims.labels, "tokens": dims.labels, "masked": dims.vocab, "span": 2}
    width = values.get(dims.head, dims.embedding_width)
    source = reference["source"].shape
    of_tokens = dims.head in ("tokens", "span", "masked")
    shape = (*source, width) if of_tokens else (source[0], width)
    _check_array(reference, "pooled", "f", shape)


def _check_prompts(reference: Arrays, dims: Dims) -> None:
    batch = len(reference["source"]) if "source" in reference else None
    _check_ids(reference, "prompt", dims.vocab, (batch, None))
    count, longest = reference["prompt"].shape
    _check_ids(reference, "prompt_length", longest + 1, (count,), least=1)


def _check_steps(reference: Arrays, dims: Dims) -> None:
    """Prefill and every step: the tokens fed, the likeliest ones and their logits."""
    batch = len(reference["prompt"])
    _check_ids(reference, "tokens", dims.vocab, (STEPS + 1, batch * BEAMS))
    for i in range(STEPS + 1):
        rows = batch * BEAMS if i else batch
        _check_ids(reference, f"top_ids_{i}", dims.vocab, (rows, None))
        ids = reference[f"top_ids_{i}"]
        _check_array(reference, f"top_logits_{i}", "f", ids.shape)
        _check_array(reference, f"log_sum_exp_{i}", "f", (rows,))
        distinct = all(len(set(row)) == len(row) for row in ids.tolist())
        if not 2 <= ids.shape[1] <= TOP or not distinct:
            raise RecordError(f"top_ids_{i}: not the likeliest tokens, each once")


def _check_ids(reference: Arrays, name: str, end: int, shape: Shape, *, least: int = 0) -> None:
    """Integers from `least` to below `end`."""
    _check_array(reference, name, "iu", shape)
    ids: NDArray[np.int64] = reference[name]
    if ids.min() < least or ids.max() >= end:
        raise RecordError(
            f"{name}: {ids.min()} to {ids.max()}, the model takes {least} to {end - 1}"
        )


def _check_array(reference: Arrays, name: str, kinds: str, shape: Shape) -> None:
    """Finite numbers of such a shape."""
    if name not in reference:
        raise RecordError(f"{name}: missing, it is not what the program records")
    array = reference[name]
    fits = len(array.shape) == len(shape) and all(
        size >= 1 and size == (size if expected is None else expected)
        for size, expected in zip(array.shape, shape, strict=True)
    )
    if array.dtype.kind not in kinds or not fits:
        raise RecordError(f"{name}: {array.dtype} {array.shape}, the program records {shape}")
    if not np.isfinite(array).all():
        raise RecordError(f"{name}: holds what is no number")
