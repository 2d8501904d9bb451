"""Metrics as sums over examples, and what chance alone would change of them.

Every metric keeps a few sums for each example, from which the metric of any set of examples
follows. Intervals are of 95 % and come from drawing the examples afresh, with replacement, 1000
times (Efron's bootstrap); the difference between two models draws the same examples for both
(Koehn, "Statistical Significance Tests for Machine Translation Evaluation", 2004).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.evaluation.answers import Request
from seq2edge.evaluation.examples import Example
from seq2edge.runtime.model import Model

DRAWS = 1000

Sums: TypeAlias = NDArray[np.float64]  # (sums of a metric,)
Ask: TypeAlias = Callable[[Model, Sequence[Example], Request], Iterator[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric, the manifest tasks it is for, and whether more of it is better.

    `ask` has a model answer every example, and metrics with the same `ask` share the answers;
    `measure` gives (examples, sums) of answers; `of` makes the metric of the examples' added sums.
    """

    name: str
    tasks: tuple[str, ...]
    rises: bool
    references: bool
    ask: Ask
    measure: Callable[[Sequence[Any], Sequence[Example]], Iterable[Sequence[float]]]
    of: Callable[[Sums], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and the interval that holds it in 95 of 100 draws of the examples."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """One model's sums (examples, sums) of one metric."""

    metric: Metric
    sums: NDArray[np.float64]

    def estimate(self) -> Estimate:
        """The metric on all examples."""
        drawn = [self.metric.of(total) for total in self._draws()]
        return _estimate(self.metric.of(self.sums.sum(axis=0)), drawn)

    def change_from(self, other: Scores) -> Estimate:
        """This model's metric minus the other's on the same examples."""
        of = self.metric.of
        pairs = zip(self._draws(), other._draws(), strict=True)
        value = of(self.sums.sum(axis=0)) - of(other.sums.sum(axis=0))
        return _estimate(value, [of(mine) - of(theirs) for mine, theirs in pairs])

    def _draws(self) -> Iterator[Sums]:
        for rows in draws(len(self.sums)):
            yield self.sums[rows].sum(axis=0)


def draws(count: int) -> Iterator[NDArray[np.int64]]:
    """Which of `count` examples each draw takes: the same ones whenever it is called."""
    rng = np.random.default_rng(0)
    for _ in range(DRAWS):
        yield rng.integers(0, count, count)


def estimate_mean(values: Sequence[float]) -> Estimate:
    """The mean of some values."""
    array = np.asarray(values, dtype=np.float64)
    return _estimate(float(array.mean()), [float(array[rows].mean()) for rows in draws(len(array))])


def _estimate(value: float, drawn: Sequence[float]) -> Estimate:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value=value, low=float(low), high=float(high))
