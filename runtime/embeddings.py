"""Texts on their way into an embedding model, and what it gives on its way out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle.manifest import EmbeddingRecord, Manifest
from seq2edge.errors import InputError
from seq2edge.runtime.encoders import Text

if TYPE_CHECKING:
    from seq2edge.runtime.tokenizer import Tokenizer


def with_prompt(texts: Sequence[Text], record: EmbeddingRecord, prompt: str | None) -> list[Text]:
    """The texts behind the prompt of that name; None is the default one, an empty name is none.

    Of a pair the first one is behind it. White space around them is taken off, as
    sentence-transformers does. Raises InputError for a name that the checkpoint does not have.
    """
    name = record.default_prompt if prompt is None else prompt
    if name and name not in record.prompts:
        known = ", ".join(record.prompts) or "none"
        raise InputError(f"prompt: {name!r} is unknown, this model has: {known}")
    before = record.prompts[name] if name else ""
    return [
        (before + text).strip()
        if isinstance(text, str)
        else ((before + text[0]).strip(), text[1].strip())
        for text in texts
    ]


def weights_of(
    tokenizer: Tokenizer, weights: NDArray[np.float32], top: int | None
) -> dict[str, float]:
    """The tokens of a sparse embedding (vocab,), at most `top` of them, largest first.

    Rows of the vocabulary that are no token stand for nothing.
    """
    order = np.argsort(-weights, kind="stable")[: np.count_nonzero(weights)].tolist()
    named = ((tokenizer.token(i), float(weights[i])) for i in order)
    return dict(itertools.islice((pair for pair in named if pair[0]), top))


def first_values(
    vectors: NDArray[np.float32], manifest: Manifest, dimensions: int | None
) -> NDArray[np.float32]:
    """The first `dimensions` values of embeddings (batch, width), by default the checkpoint's.

    Where the model's have the length 1, these get it again. Raises InputError for more than there
    are.
    """
    record, width = manifest.embedding, vectors.shape[1]
    if dimensions is None:
        dimensions = record.dimensions if record else None
    if dimensions is None:
        return vectors
    if not 1 <= dimensions <= width:
        raise InputError(f"dimensions: {dimensions}, the model's embeddings have {width}")
    kept = vectors[:, :dimensions]
    if not manifest.dims.normalize:
        return kept
    lengths = np.linalg.norm(kept, axis=1, keepdims=True)
    return np.asarray(kept / np.maximum(lengths, np.float32(1e-12)))
