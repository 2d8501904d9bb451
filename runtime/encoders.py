"""What encoder-only models do with many texts: a few at a time, those of like length together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import InputError
from seq2edge.runtime.likelihood import probabilities

if TYPE_CHECKING:
    from seq2edge.runtime.tokenizer import EncodedText
    from seq2edge.runtime.understanding import Understanding

Text: TypeAlias = "str | tuple[str, str]"  # or a pair, which the model reads as one
BATCH = 16  # texts at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranked:
    """A text, its place among those that were given, and how well it answers the query."""

    text: str
    index: int
    score: float


def pool_each(
    model: Understanding, texts: Sequence[EncodedText], batch: int = BATCH
) -> list[NDArray[np.float32]]:
    """What the encoder gives for each text, in their order: (values,), or (tokens, values)."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i].ids))
    pooled: list[Any] = [None] * len(texts)
    for start in range(0, len(order), batch):
        group = order[start : start + batch]
        for i, values in zip(group, model.pool([texts[i] for i in group]), strict=True):
            pooled[i] = values[: len(texts[i].ids)] if values.ndim > 1 else values
    return pooled


def rerank(
    model: Understanding, query: str, texts: Sequence[str], instruction: str | None, batch: int
) -> list[Ranked]:
    """See `Model.rerank`."""
    labels = model.bundle.manifest.labels
    if len(labels) != 1:
        raise InputError(
            f"{model.bundle.path}: tells {len(labels)} labels apart, a reranker gives one score; "
            "classify pairs with it"
        )
    read = [model.read_text((query, text), instruction=instruction) for text in texts]
    logits = np.array([values[0] for values in pool_each(model, read, batch)], dtype=np.float32)
    plain = model.bundle.manifest.relevance == "plain"
    scores = logits if plain else probabilities(logits, "multi_label")
    ranked = [
        Ranked(text=text, index=i, score=float(score))
        for i, (text, score) in enumerate(zip(texts, scores, strict=True))
    ]
    return sorted(ranked, key=lambda each: -each.score)
