"""How loss falls with parameters and tokens: L(N, D) = E + A / N^alpha + B / D^beta.

The form is that of Hoffmann et al. 2022 ("Training Compute-Optimal Large Language Models"). For
given exponents it is linear in E, A and B, so a search over the two exponents finds the best fit
of all (variable projection, Golub and Pereyra 1973).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import TrainingError
from seq2edge.evaluation.metrics import Estimate

Array: TypeAlias = NDArray[np.float64]
LEVELS, RUNS = 3, 7  # sizes and amounts, and runs, that five numbers need at least
LOWEST, HIGHEST = 0.02, 3.0  # exponents that are searched
USEFUL = 3.0  # an exponent is known where its interval's ends differ by no more than this factor
HUBER = 0.01  # relative errors above it count linearly
REPEATS, ROUNDS = 300, 6
SUBSETS = tuple(s for n in (1, 2, 3) for s in itertools.combinations(range(3), n))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observation:
    """One run: parameters, tokens, and the loss it came to (nats a token)."""

    parameters: float
    tokens: float
    loss: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval(Estimate):
    """An estimate with a 90 % CI from bootstrap fits; `known` where that says something."""

    known: bool = True

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Law:
    """The numbers of the formula, N and D in parameters and tokens."""

    floor: float  # E
    a: float
    alpha: float
    b: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        """What the formula gives."""
        loss: float = self.floor + self.a / parameters**self.alpha + self.b / tokens**self.beta
        return loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """The best law, those of the bootstrap, and the intervals of floor and exponents."""

    law: Law
    repeats: tuple[Law, ...]
    floor: Interval
    alpha: Interval
    beta: Interval
    error: float  # root mean square of the relative errors of the runs

    def predict(self, parameters: float, tokens: float) -> Interval:
        """The loss of a run that was not made, with its interval."""
        losses = [law.loss(parameters, tokens) for law in self.repeats]
        low, high = np.percentile(losses, [5, 95])
        value = self.law.loss(parameters, tokens)
        return Interval(value=value, low=min(low, value), high=max(high, value))


def fit_law(runs: Sequence[Observation], *, seed: int = 0) -> Fit:
    """Fit robustly (Huber's loss of relative errors) with a Bayesian bootstrap over the runs.

    The bootstrap (Rubin 1981) weighs the runs at random, so that none of five numbers is ever left
    without runs; more unevenly the fewer runs there are beyond five, since a fit of five numbers
    comes nearer to its runs than to the truth. Raises TrainingError for too few runs, sizes or
    amounts.
    """
    runs = [run for run in runs if math.isfinite(run.loss)]
    counts = [len({getattr(run, name) for run in runs}) for name in ("parameters", "tokens")]
    if len(runs) < RUNS or min(counts) < LEVELS:
        raise TrainingError(
            f"scaling law: {len(runs)} runs of {counts[0]} sizes and {counts[1]} amounts of data, "
            f"five numbers need {RUNS} runs, {LEVELS} sizes and {LEVELS} amounts or more"
        )
    rng = np.random.default_rng(seed)
    law = _best(runs, np.ones(len(runs)))
    spread = np.full(len(runs), (len(runs) - 5) / len(runs))
    draws = rng.dirichlet(spread, REPEATS) * len(runs)
    repeats = tuple(_best(runs, weights) for weights in draws)
    errors = [law.loss(run.parameters, run.tokens) / run.loss - 1 for run in runs]
    return Fit(
        law=law,
        repeats=repeats,
        floor=_interval([each.floor for each in repeats], law.floor),
        alpha=_exponent([each.alpha for each in repeats if each.a], law.alpha if law.a else 0.0),
        beta=_exponent([each.beta for each in repeats if each.b], law.beta if law.b else 0.0),
        error=float(np.sqrt(np.mean(np.square(errors)))),
    )


def _interval(values: Sequence[float], value: float) -> Interval:
    low, high = np.percentile(values, [5, 95])
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))


def _exponent(values: Sequence[float], value: float) -> Interval:
    """Known where nearly every repeat needs it, none leans on the search's ends, all are near."""
    if not value or len(values) < 0.95 * REPEATS:
        return Interval(value=value, low=LOWEST, high=HIGHEST, known=False)
    interval = _interval(values, value)
    inside = interval.low > LOWEST * 1.01 and interval.high < HIGHEST / 1.01
    return dataclasses.replace(interval, known=inside and interval.high <= USEFUL * interval.low)


def _best(runs: Sequence[Observation], weights: Array) -> Law:
    """Search the exponents on a grid, then on finer ones around the best point."""
    n, d, loss = (np.array([getattr(run, name) for run in runs], dtype=np.float64)
                  for name in ("parameters", "tokens", "loss"))  # fmt: skip
    middle = [float(np.exp(np.log(values).mean())) for values in (n, d)]
    low, high = np.full(2, math.log(LOWEST)), np.full(2, math.log(HIGHEST))
    for points in (16, 7, 7, 7, 7):
        axes = [np.exp(np.linspace(low[i], high[i], points)) for i in (0, 1)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        terms = [np.ones((len(grid), len(runs)))]
        terms += [(values / mid) ** -grid[:, i : i + 1] for i, (values, mid) in
                  enumerate(zip((n, d), middle, strict=True))]  # fmt: skip
        cost, factors = _linear(np.stack(terms, axis=-1) / loss[:, None], weights)
        chosen = int(np.argmin(cost))
        step = (high - low) / (points - 1)
        centre = np.log(grid[chosen])
        low = np.maximum(centre - step, math.log(LOWEST))
        high = np.minimum(centre + step, math.log(HIGHEST))
    (alpha, beta), (floor, a, b) = map(float, grid[chosen]), map(float, factors[chosen])
    return Law(
        floor=floor, a=a * middle[0] ** alpha, alpha=alpha, b=b * middle[1] ** beta, beta=beta
    )


def _linear(terms: Array, weights: Array) -> tuple[Array, Array]:
    """Factors that are not negative and bring `terms` (grid, runs, 3) to 1; cost and factors.

    Huber's loss by weighing the runs again and again; with three factors every set of those that
    are not zero can be tried.
    """
    cost, factors = np.full(len(terms), np.inf), np.zeros((len(terms), 3))
    # The best factors that are not negative are the free best ones of some subset of the terms,
    # the others being zero: with three terms all seven subsets are solved, for the whole grid.
    for subset in SUBSETS:
        part = terms[:, :, subset]  # (grid, runs, chosen)
        trust = np.broadcast_to(weights, terms.shape[:2])
        # Huber's loss as weighted squares: of a run whose error is above HUBER only HUBER / error
        # of the weight counts, and the normal equations (chosen, chosen) are solved anew.
        for _ in range(ROUNDS):
            scaled = part * trust[:, :, None]
            normal = np.einsum("grx,gry->gxy", scaled, part)
            scale = np.trace(normal, axis1=1, axis2=2)[:, None, None]
            # Scaled with the matrix, a trace of ridge: exponents near zero make terms parallel.
            normal += 1e-12 * scale * np.eye(len(subset))
            solved = np.linalg.solve(normal, scaled.sum(axis=1)[:, :, None])[:, :, 0]
            # (grid, runs): how far each run is from 1, its relative error
            size = np.abs(np.einsum("grx,gx->gr", part, solved) - 1)
            trust = weights * HUBER / np.maximum(size, HUBER)
        losses = np.where(size < HUBER, 0.5 * size**2, HUBER * (size - 0.5 * HUBER))
        total = np.where((solved >= 0).all(axis=1), (weights * losses).sum(axis=1), np.inf)
        better = total < cost
        cost[better] = total[better]
        factors[better] = 0.0
        factors[np.ix_(better, np.array(subset))] = solved[better]
    return cost, factors
