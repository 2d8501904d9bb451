"""Word embedding association test (Caliskan, Bryson and Narayanan, Science 356, 2017)."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from seq2edge.evaluation.pairs import Association
from seq2edge.runtime.model import Model

PERMUTATIONS = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effect:
    """How much nearer the first targets are to the first attributes than the second targets are.

    `size` is in standard deviations over all targets; `p` is the share of random divisions of the
    targets into two lists with an effect as far from 0, the one at hand counted in.
    """

    name: str
    targets: tuple[str, str]
    attributes: tuple[str, str]
    size: float
    p: float


def measure_association(model: Model, association: Association) -> Effect:
    """Embed every word alone, and compare cosines."""
    (x, targets_x), (y, targets_y) = association.targets.items()
    (a, words_a), (b, words_b) = association.attributes.items()
    targets = _directions(model, (*targets_x, *targets_y))
    nearness = [
        (targets @ _directions(model, words).T).mean(axis=1)  # (targets,)
        for words in (words_a, words_b)
    ]
    size, p = effect_size(nearness[0] - nearness[1])
    return Effect(name=association.name, targets=(x, y), attributes=(a, b), size=size, p=p)


def effect_size(leaning: NDArray[np.float64]) -> tuple[float, float]:
    """Effect size and p of (targets,) leanings, those of the first half against the second."""
    half = len(leaning) // 2
    spread = float(leaning.std(ddof=1))
    if spread == 0:
        return 0.0, 1.0
    rng = np.random.default_rng(0)
    drawn = rng.permuted(np.tile(leaning, (PERMUTATIONS, 1)), axis=1)
    chance = drawn[:, :half].mean(axis=1) - drawn[:, half:].mean(axis=1)
    found = float(leaning[:half].mean() - leaning[half:].mean())
    as_far = int(np.sum(abs(chance) >= abs(found) * (1 - 1e-9)))
    return found / spread, (as_far + 1) / (PERMUTATIONS + 1)


def _directions(model: Model, words: tuple[str, ...]) -> NDArray[np.float64]:
    vectors = model.embed(words).astype(np.float64)
    lengths: NDArray[np.float64] = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / lengths
