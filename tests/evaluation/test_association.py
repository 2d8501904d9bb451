"""WEAT on vectors whose answer is known."""

from __future__ import annotations

import types

import numpy as np
import pytest

from seq2edge.evaluation.association import effect_size, measure_association
from seq2edge.evaluation.pairs import Association

VECTORS = {"a": (1, 0), "b": (0, 2), "up": (3, 1), "higher": (5, 1), "down": (1, 3), "low": (1, 4)}


def measured(targets):
    """The effect of the words' vectors; `a` and `b` are the attributes."""
    model = types.SimpleNamespace(
        embed=lambda words: np.array([VECTORS[word] for word in words], dtype=np.float32)
    )
    attributes = {"first": ("a", "a"), "second": ("b", "b")}
    return measure_association(model, Association(name="n", targets=targets, attributes=attributes))


def test_the_effect_is_a_difference_in_standard_deviations():
    """Computed by hand from cosines; lengths of vectors do not count."""
    found = measured({"x": ("up", "higher"), "y": ("down", "low")})
    unit = [np.array(VECTORS[w]) / np.linalg.norm(VECTORS[w]) for w in ("up", "higher")]
    unit += [np.array(VECTORS[w]) / np.linalg.norm(VECTORS[w]) for w in ("down", "low")]
    leaning = np.array([v[0] - v[1] for v in unit])
    wanted = (leaning[:2].mean() - leaning[2:].mean()) / leaning.std(ddof=1)
    assert found.size == pytest.approx(wanted)
    assert (found.targets, found.attributes) == (("x", "y"), ("first", "second"))
    assert measured({"y": ("down", "low"), "x": ("up", "higher")}).size == pytest.approx(-wanted)


def test_p_is_the_share_of_divisions_as_far_apart():
    """Of 6 ways to divide 4 words 2 are as far apart as the clean one; equal words say nothing."""
    assert measured({"x": ("up", "higher"), "y": ("down", "low")}).p == pytest.approx(
        1 / 3, abs=0.02
    )
    assert measured({"x": ("up", "up"), "y": ("up", "up")}).size == 0
    size, p = effect_size(np.array([1.0] * 10 + [0.0] * 10) + np.arange(20) * 1e-3)
    assert size > 1.9
    assert p < 0.001
