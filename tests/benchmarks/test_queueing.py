"""The simulation of queues, where queueing theory knows the answer."""

from __future__ import annotations

import random
import statistics
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import queueing

DRAW = random.Random(1)
EXPONENTIAL = [DRAW.expovariate(1 / 100) for _ in range(20_000)]


@pytest.mark.parametrize(
    ("speeds", "lengths", "seconds"),
    [
        ([100.0], EXPONENTIAL, 2.0),  # M/M/1: 1 / (1 - 0.5)
        ([100.0] * 50, EXPONENTIAL, 2.0),  # shared by all who are there: the same mean
        ([100.0], [100.0], 1.5),  # M/D/1: half the wait
    ],
)
def test_a_queue_takes_as_long_as_theory_says(speeds, lengths, seconds):
    """Requests of a second at a machine that works half the time."""
    took, busy = queueing.simulate(speeds, lengths, 0.5, 1, requests=15_000)
    assert statistics.fmean(took) == pytest.approx(seconds, rel=0.05)
    assert busy == pytest.approx(0.5, rel=0.05)
    assert took == sorted(took)


def test_speed_grows_with_the_rows_up_to_the_most():
    """Between measured sizes on a line, and two machines wait less than one."""
    assert [queueing.between({1: 10.0, 4: 40.0}, size) for size in (1, 2, 4)] == [10.0, 20.0, 40.0]
    one, _ = queueing.simulate([100.0, 200.0], [100.0], 1.5, 1, requests=5000)
    two, _ = queueing.simulate([100.0, 200.0], [100.0], 1.5, 2, requests=5000)
    assert min(one) == pytest.approx(1.0)
    assert statistics.fmean(two) < statistics.fmean(one)
