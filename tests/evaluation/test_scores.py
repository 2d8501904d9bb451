"""Intervals that behave, and differences between models on the same examples."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from seq2edge.evaluation.metrics import METRICS
from seq2edge.evaluation.scores import Scores, estimate_mean


def shares(count, seed):
    """Scores of an accuracy."""
    right = np.random.default_rng(seed).random(count) < 0.7
    return Scores(metric=METRICS["accuracy"], sums=np.stack([right, np.ones(count)], axis=1))


def test_intervals_are_those_of_a_proportion():
    """Close to the normal approximation, and narrower with more examples."""
    for count in (100, 1600):
        found = shares(count, seed=1).estimate()
        share = found.value / 100
        wanted = 2 * 1.96 * 100 * math.sqrt(share * (1 - share) / count)
        assert found.low < found.value < found.high
        assert found.high - found.low == pytest.approx(wanted, rel=0.15)


def test_differences_are_drawn_on_the_same_examples():
    """A model differs from itself by nothing; one that loses a single answer by very little."""
    before = shares(400, seed=1)
    same = before.change_from(before)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    sums = before.sums.copy()
    sums[np.flatnonzero(sums[:, 0])[0], 0] = 0
    lost = dataclasses.replace(before, sums=sums).change_from(before)
    assert lost.value == pytest.approx(-0.25)
    assert -1.1 < lost.low <= lost.value <= lost.high <= 0


def test_a_mean_has_an_interval():
    """That of its standard error."""
    values = np.random.default_rng(3).normal(2.0, 1.0, 400)
    found = estimate_mean(values)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.15)
