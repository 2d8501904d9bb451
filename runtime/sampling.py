"""Drawing tokens: which of them are left to draw from, and the draw itself.

What is left is what transformers' processors leave, in their order: temperature, top-k, top-p,
min-p, typical-p, epsilon, eta (Fan et al. 2018, Holtzman et al. 2020, Nguyen et al. 2024, Meister
et al. 2023, Hewitt et al. 2022).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.backend import Logits
from seq2edge.runtime.candidates import largest_bounds
from seq2edge.runtime.likelihood import log_softmax
from seq2edge.runtime.options import DecodeOptions


@dataclasses.dataclass(frozen=True, eq=False)
class Remaining:
    """Tokens that may be drawn, in the order of their ids, and their scores, both (kept,)."""

    ids: NDArray[np.int64]
    scores: Logits

    def where(self, kept: NDArray[np.bool_]) -> Remaining:
        """Those of them; all where none would be left."""
        return Remaining(self.ids[kept], self.scores[kept]) if kept.any() else self

    def normalised(self) -> Remaining:
        """The same with scores that are log-probabilities."""
        return Remaining(self.ids, log_softmax(self.scores)) if len(self.ids) else self

    def probabilities(self) -> NDArray[np.float64]:
        """Of these tokens (kept,), added up to one."""
        likely = np.exp(self.scores - self.scores.max(), dtype=np.float64)
        return np.asarray(likely / likely.sum())


def remaining(scores: Logits, options: DecodeOptions) -> Remaining:
    """What the options leave of a row of scores (vocab,), which are divided by the temperature."""
    # Beam search goes on from each end token's rivals too, so they must not be left out.
    least = 1 if options.num_beams == 1 else max(2, 1 + len(options.eos_token_id))
    left = _top_k(scores / np.float32(options.temperature), options.top_k, least)
    if not len(left.ids):  # a beam that cannot go on
        return left
    if options.top_p < 1.0:
        left = left.where(_in_top_p(left.probabilities(), options.top_p, least))
    if options.min_p > 0.0:
        likely = left.probabilities()
        left = left.where((likely >= options.min_p * likely.max()) | _among_largest(likely, least))
    if options.typical_p < 1.0:
        left = left.where(_typical(left, options.typical_p, least))
    if options.epsilon_cutoff:
        left = left.where(_above(left, options.epsilon_cutoff, least))
    if options.eta_cutoff:
        eta = options.eta_cutoff
        left = left.where(_above(left, min(eta, eta**0.5 * np.exp(-_entropy(left))), least))
    return left


def draw(left: Remaining, numbers: NDArray[np.float64]) -> NDArray[np.int64]:
    """The tokens at these places, 0 to 1, of the line that the probabilities make together."""
    borders = np.cumsum(left.probabilities())
    places = np.searchsorted(borders, numbers * borders[-1], side="right")
    tokens: NDArray[np.int64] = left.ids[np.minimum(places, len(borders) - 1)]
    return tokens


def draw_several(likely: NDArray[np.float64], count: int, rng: np.random.Generator) -> Indices:
    """Places of `count` different entries, one draw after the other, of those above zero."""
    # The first to ring of clocks that ring at these rates (Efraimidis and Spirakis 2006).
    times = rng.exponential(size=len(likely))
    with np.errstate(divide="ignore"):
        rings = np.where(likely > 0, times / likely, np.inf)
    count = min(count, int((likely > 0).sum()))
    return np.asarray(np.argsort(rings, kind="stable")[:count])


Indices = NDArray[np.int64]


def _top_k(scores: Logits, k: int, least: int) -> Remaining:
    """Those no lower than the k-th largest; k = 0 leaves all that are possible."""
    bound = np.float32(-np.inf)
    if k:
        k = min(max(k, least), len(scores))
        reached = scores[scores >= largest_bounds(scores[None], k)[1][0]]
        bound = np.partition(reached, len(reached) - k)[len(reached) - k]
    ids = np.flatnonzero(scores >= bound) if np.isfinite(bound) else np.flatnonzero(scores > bound)
    return Remaining(ids, scores[ids])


def _in_top_p(likely: NDArray[np.float64], p: float, least: int) -> NDArray[np.bool_]:
    """The likeliest that reach p together: the unlikeliest go while they have 1 - p or less."""
    order = np.argsort(likely, kind="stable")
    kept = np.empty(len(likely), dtype=np.bool_)
    kept[order] = np.cumsum(likely[order]) > 1 - p
    kept[order[-least:]] = True
    return kept


def _among_largest(values: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    kept = np.zeros(len(values), dtype=np.bool_)
    kept[np.argsort(values, kind="stable")[-count:]] = True
    return kept


def _above(left: Remaining, bound: float, least: int) -> NDArray[np.bool_]:
    """Those that are as probable as the bound, and the likeliest ones with their equals."""
    place = max(0, len(left.scores) - least)
    return np.asarray(
        (left.probabilities() >= bound) | (left.scores >= np.partition(left.scores, place)[place])
    )


def _entropy(left: Remaining) -> float:
    """The expected surprise."""
    likely = left.probabilities()
    return float(-(likely * np.log(np.maximum(likely, np.finfo(np.float64).tiny))).sum())


def _typical(left: Remaining, mass: float, least: int) -> NDArray[np.bool_]:
    """Those whose surprise is nearest to the expected one, until they reach `mass` together."""
    likely = left.probabilities()
    surprise = -np.log(np.maximum(likely, np.finfo(np.float64).tiny))
    distance = np.abs(surprise - (likely * surprise).sum())
    order = np.argsort(distance, kind="stable")
    last = min(int((np.cumsum(likely[order]) < mass).sum()), len(order) - 1)
    kept = distance <= distance[order[last]]
    kept[order[:least]] = True
    return np.asarray(kept)
