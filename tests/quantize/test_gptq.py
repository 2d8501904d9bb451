"""GPTQ: errors are made up for by the inputs that are still to come."""

from __future__ import annotations

import numpy as np
import pytest

from seq2edge.quantize.gptq import quantize_columns

INNER, OUTER, BLOCK = 64, 20, 32


def weight(seed=0):
    """(K, N)."""
    return np.random.default_rng(seed).standard_normal((INNER, OUTER)).astype(np.float32)


def correlated(rows=500, seed=1):
    """Inputs (rows, K) that vary along few directions, as activations do."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((rows, 8)) @ rng.standard_normal((8, INNER))
    return (mixed + 0.1 * rng.standard_normal((rows, INNER))).astype(np.float32)


def nearest(values):
    """Round to nearest with the scale that fits each block's largest value."""
    blocks = values.reshape(-1, BLOCK, OUTER)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / 7
    return (np.round(blocks / scale) * scale).reshape(values.shape)


def restored(codes, scales):
    """What the operator multiplies by."""
    return codes * np.repeat(scales, BLOCK, axis=0)


def test_products_err_less_than_after_rounding_to_nearest():
    """By a factor, on inputs that go together."""
    x, w = correlated(), weight()
    codes, scales = quantize_columns(w, x.T @ x, bits=4, block=BLOCK)
    errors = [np.square(x @ (w - found)).mean() for found in (restored(codes, scales), nearest(w))]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("bits", [4, 8])
def test_codes_and_scales_are_what_the_bits_allow(bits):
    """Signed integers of that many bits, one scale for each block and column."""
    x, w = correlated(), weight()
    codes, scales = quantize_columns(w, x.T @ x, bits=bits, block=BLOCK)
    assert (codes.shape, scales.shape) == ((INNER, OUTER), (INNER // BLOCK, OUTER))
    assert codes.min() >= -(2 ** (bits - 1))
    assert codes.max() <= 2 ** (bits - 1) - 1
    assert np.abs(codes.astype(int)).max() > 2 ** (bits - 1) - 2  # the range is used


def test_what_fits_exactly_is_kept():
    """A weight made of such values loses nothing."""
    rng = np.random.default_rng(2)
    codes = rng.integers(-8, 8, (INNER, OUTER))
    codes[::BLOCK] = -8
    w = (codes * 0.25).astype(np.float32)
    x = correlated()
    np.testing.assert_allclose(restored(*quantize_columns(w, x.T @ x, bits=4, block=BLOCK)), w)


def test_a_product_that_saw_nothing_is_rounded():
    """No division by zero; the values are as near as four bits are."""
    w = weight()
    found = restored(
        *quantize_columns(w, np.zeros((INNER, INNER), np.float32), bits=4, block=BLOCK)
    )
    assert np.isfinite(found).all()
    assert np.abs(found - w).max() < 0.3 * np.abs(w).max()
