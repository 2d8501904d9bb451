"""Corrupted texts to pretrain on: T5's spans with sentinels, BART's infilled masks."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ids: TypeAlias = NDArray[np.int64]  # (tokens,)


def corrupt_spans(
    ids: Ids, rng: np.random.Generator, *, density: float, span: float, sentinels: Ids
) -> tuple[Ids, Ids]:
    """Span corruption (Raffel et al. 2020): the text with sentinels for the spans, and the spans.

    ids (tokens,), of which `density` are hidden in spans of `span` tokens on average; at least one
    is, and at least one is not. Each span in the answer stands behind its sentinel.
    """
    starts = _spans(len(ids), rng, density, span, len(sentinels))
    source: list[Ids] = []
    target: list[Ids] = []
    position = 0
    for sentinel, (start, end) in zip(sentinels, starts, strict=False):
        source += [ids[position:start], np.array([sentinel])]
        target += [np.array([sentinel]), ids[start:end]]
        position = end
    return np.concatenate([*source, ids[position:]]), np.concatenate(target)


def infill(ids: Ids, rng: np.random.Generator, *, density: float, span: float, mask: int) -> Ids:
    """Text infilling (Lewis et al. 2020): each span becomes one mask, some stand for no token.

    Lengths of spans are Poisson with mean `span`; a span of length 0 inserts a mask.
    """
    hidden = round(density * len(ids))
    lengths: list[int] = []
    while sum(lengths) < hidden:
        lengths.append(min(int(rng.poisson(span)), hidden - sum(lengths)))
    free = len(ids) - sum(lengths)
    gaps = np.sort(rng.integers(0, free + 1, len(lengths)))  # tokens that stay before each span
    parts: list[Ids] = []
    read = kept = 0
    for gap, length in zip(gaps, lengths, strict=True):
        stays = int(gap) - kept
        parts += [ids[read : read + stays], np.array([mask])]
        read += stays + length
        kept += stays
    return np.concatenate([*parts, ids[read:]])


def _spans(
    count: int, rng: np.random.Generator, density: float, span: float, most: int
) -> list[tuple[int, int]]:
    """Starts and ends of hidden spans, in order, never touching each other."""
    if count < 2:
        return []
    hidden = min(max(1, round(density * count)), count - 1)
    spans = min(max(1, round(hidden / span)), hidden, count - hidden, most)
    lengths = _split(hidden, spans, rng)
    gaps = _split(count - hidden, spans, rng)  # one before every span: the text never begins hidden
    bounds, place = [], 0
    for gap, length in zip(gaps, lengths, strict=True):
        bounds.append((place + gap, place + gap + length))
        place += gap + length
    return bounds


def _split(total: int, parts: int, rng: np.random.Generator) -> list[int]:
    """`total` as that many random numbers of 1 or more."""
    cuts = np.sort(rng.permutation(total - 1)[: parts - 1]) + 1
    edges = np.concatenate([[0], cuts, [total]])
    return [int(size) for size in np.diff(edges)]
