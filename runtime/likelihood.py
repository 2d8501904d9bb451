"""From logits to likelihoods."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import BackendError
from seq2edge.runtime.backend import Logits


def log_sum_exp(logits: Logits) -> NDArray[np.float64]:
    """log(sum(exp(logits))) over the last axis, (rows,). Raises BackendError as `check_finite`."""
    highest = logits.max(axis=-1, keepdims=True)
    check_finite(highest)
    total = np.exp(logits - highest).sum(axis=-1, dtype=np.float64)
    result: NDArray[np.float64] = np.log(total) + highest[..., 0]
    return result


def log_likelihoods(logits: Logits, total: NDArray[np.float64]) -> Logits:
    """Log-probabilities of some logits of each row, the largest among them, a new array.

    `total` (rows,) is the log-sum-exp of all. What lies near the largest keeps its digits.
    """
    highest = logits.max(axis=-1, keepdims=True)
    shifted: Logits = logits - highest
    shifted -= (total[..., None] - highest).astype(logits.dtype)
    return shifted


def log_softmax(logits: Logits) -> Logits:
    """Log-probabilities over the last axis, a new array."""
    return log_likelihoods(logits, log_sum_exp(logits))


def check_finite(values: NDArray[np.floating]) -> None:
    """Raise BackendError where a row's largest logit, or its sum of all, is no number."""
    if not np.isfinite(values).all():
        raise BackendError(
            "logits: the model answered infinity or no number; "
            "check the bundle with `seq2edge verify`, or export it in a larger precision"
        )
