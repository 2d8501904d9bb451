"""Log-probabilities of all logits, and of a few of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from seq2edge.errors import BackendError
from seq2edge.runtime.likelihood import checked, log_likelihoods, log_softmax, log_sum_exp

CALM = settings(max_examples=60, deadline=None)
LOGITS = arrays.arrays(np.float32, (2, 9), elements=st.floats(-80, 80, width=32))


@CALM
@given(LOGITS)
def test_log_probabilities(logits):
    """They sum to one and keep the differences; large logits do not overflow."""
    found = log_softmax(logits).astype(np.float64)
    np.testing.assert_allclose(np.exp(found).sum(axis=-1), 1, atol=1e-5)
    difference = logits.astype(np.float64) - logits[:, :1]
    np.testing.assert_allclose(found - found[:, :1], difference, atol=1e-4)


@CALM
@given(LOGITS, st.integers(1, 9))
def test_some_are_as_likely_as_among_all(logits, k):
    """To the last bit, as long as the largest is one of them."""
    order = np.argsort(-logits, axis=1)[:, :k]
    few = np.take_along_axis(logits, order, axis=1)
    found = log_likelihoods(few, log_sum_exp(logits))
    np.testing.assert_array_equal(found, np.take_along_axis(log_softmax(logits), order, axis=1))


def test_a_sure_token_keeps_its_digits():
    """A likelihood near one is told from one, however large the logits are."""
    found = log_softmax(np.array([[3e4, 3e4 - 12]], dtype=np.float32))
    assert found[0, 0] == pytest.approx(-np.log1p(np.exp(-12.0)), rel=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_an_error(value):
    """As the largest of a row; a single forbidden token is none."""
    logits = np.array([[1.0, 2.0], [value, value]], dtype=np.float32)
    for function in (lambda x: checked(log_sum_exp(x)), log_softmax, checked):
        with pytest.raises(BackendError, match="NaN or infinity; check the bundle"):
            function(logits)
    assert log_sum_exp(np.array([[-np.inf, 2.0]])) == 2.0
