"""Metrics as sums over examples, and what chance alone would change of them.

Every metric keeps a few sums for each example, from which the metric of any set of examples
follows. Intervals are 95 % confidence intervals: the quantiles of 1000 bootstrap samples of the
examples (Efron 1979); the difference between two models takes the same samples for both (Koehn,
"Statistical Significance Tests for Machine Translation Evaluation", 2004).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.evaluation.answers import ModelRequest
from seq2edge.evaluation.examples import Example
from seq2edge.runtime.model import Model

SAMPLES = 1000

Sums: TypeAlias = NDArray[np.float64]  # (sums of a metric,)
Ask: TypeAlias = Callable[[Model, Sequence[Example], ModelRequest], Iterator[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric, and the manifest tasks it is for.

    `ask` has a model answer every example, and metrics with the same `ask` share the answers;
    `measure` gives (examples, sums) of answers; `aggregate` makes the metric of the examples' added
    sums.
    """

    name: str
    tasks: tuple[str, ...]
    higher_is_better: bool
    references: bool
    ask: Ask
    measure: Callable[[Sequence[Any], Sequence[Example]], Iterable[Sequence[float]]]
    aggregate: Callable[[Sums], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and its 95 % confidence interval, by bootstrap over the examples."""

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
        sampled = [self.metric.aggregate(total) for total in self._draws()]
        return _estimate(self.metric.aggregate(self.sums.sum(axis=0)), sampled)

    def change_from(self, other: Scores) -> Estimate:
        """This model's metric minus the other's on the same examples."""
        aggregate = self.metric.aggregate
        pairs = zip(self._draws(), other._draws(), strict=True)
        value = aggregate(self.sums.sum(axis=0)) - aggregate(other.sums.sum(axis=0))
        return _estimate(value, [aggregate(mine) - aggregate(theirs) for mine, theirs in pairs])

    def _draws(self) -> Iterator[Sums]:
        for rows in bootstrap_samples(len(self.sums)):
            yield self.sums[rows].sum(axis=0)


def bootstrap_samples(count: int) -> Iterator[NDArray[np.int64]]:
    """The examples (count,) of each bootstrap sample: the same ones whenever it is called."""
    rng = np.random.default_rng(0)
    for _ in range(SAMPLES):
        yield rng.integers(0, count, count)


def estimate_mean(values: Sequence[float]) -> Estimate:
    """The mean of some values, and the interval of such means."""
    array = np.asarray(values, dtype=np.float64)
    sampled = [float(array[rows].mean()) for rows in bootstrap_samples(len(array))]
    return _estimate(float(array.mean()), sampled)


def _estimate(value: float, sampled: Sequence[float]) -> Estimate:
    low, high = np.quantile(sampled, [0.025, 0.975])
    return Estimate(value=value, low=float(low), high=float(high))
