"""Masked words: what a model would write in their places."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from seq2edge.errors import InputError, OptionError
from seq2edge.runtime.encoders import pool_each
from seq2edge.runtime.likelihood import probabilities

if TYPE_CHECKING:
    from seq2edge.runtime.understanding import Understanding


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filling:
    """A token for a mask, its probability, and the text with it.

    Where a text has several masks, the others stay in it, as special tokens do.
    """

    token: str
    id: int
    score: float
    text: str


def fill(model: Understanding, text: str, top_k: int) -> list[list[Filling]]:
    """See `Model.fill`."""
    if top_k < 1:
        raise OptionError(f"top_k: {top_k}, needs 1 or more")
    tokenizer, mask = model.tokenizer, model.tokenizer.record.special.mask
    read = model.read_text(text)
    masked = tokenizer.token_id(mask) if mask is not None else -1
    places = [place for place, i in enumerate(read.ids) if i == masked]
    if not places:
        if mask is None:
            raise InputError("fill: the tokenizer has no mask, give token ids to token_logits")
        raise InputError(f"fill: {text!r:.60} has no {mask}; write it where a word is missing")
    (logits,) = pool_each(model, [read])
    fillings = []
    for place, scores in zip(places, probabilities(logits[places], "single_label"), strict=True):
        best = np.argsort(-scores, kind="stable")[:top_k].tolist()
        filled = [[*read.ids[:place], i, *read.ids[place + 1 :]] for i in best]
        fillings.append(
            [
                Filling(
                    token=tokenizer.decode([i], skip_special_tokens=False),
                    id=i,
                    score=float(scores[i]),
                    text=tokenizer.decode(ids, skip_special_tokens=len(places) == 1),
                )
                for i, ids in zip(best, filled, strict=True)
            ]
        )
    return fillings
