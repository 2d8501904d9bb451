"""From logits to likelihoods."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import BackendError
from seq2edge.runtime.backend import Answer, Candidates, Logits


def log_sum_exp(logits: Logits, dtype: Any = np.float64) -> NDArray[Any]:
    """log(sum(exp(logits))) over the last axis, (rows,), added up in `dtype`.

    The largest is taken off first, so that nothing overflows. NaN where a logit is NaN or a row's
    largest is infinite.
    """
    highest = logits.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        total = np.exp(logits - highest).sum(axis=-1, dtype=dtype)
    result: NDArray[Any] = np.log(total) + highest[..., 0]
    return result


def total_of(answer: Answer) -> NDArray[np.float64]:
    """The log-sum-exp of a step's logits (rows,); an answer of the largest alone brings it."""
    return answer.log_sum_exp if isinstance(answer, Candidates) else log_sum_exp(answer)


def log_likelihoods(logits: Logits, total: NDArray[np.float64]) -> Logits:
    """Log-probabilities of some logits of each row, the largest among them, a new array.

    `total` (rows,) is the log-sum-exp of all. The largest is taken off both before they are
    subtracted, so that what lies near it keeps its digits in float32.
    """
    highest = logits.max(axis=-1, keepdims=True)
    shifted: Logits = logits - highest
    shifted -= (total[..., None] - highest).astype(logits.dtype)
    return shifted


def log_softmax(logits: Logits) -> Logits:
    """Log-probabilities over the last axis, a new array. Raises BackendError for NaN, infinity."""
    return log_likelihoods(logits, checked(log_sum_exp(logits)))


def checked(totals: NDArray[Any]) -> NDArray[Any]:
    """These log-sum-exps (rows,). Raises BackendError where one is NaN or infinite."""
    if not all(map(math.isfinite, totals.ravel().tolist())):  # of a few, faster than numpy
        raise BackendError(
            "logits: the model answered NaN or infinity; "
            "check the bundle with `seq2edge verify`, or export it in a larger precision"
        )
    return totals


def probabilities(logits: Logits, problem: str | None) -> Logits:
    """What a classifier answers, (batch, labels): of one label or of several, or plain values."""
    if problem == "regression":
        return logits
    if problem == "multi_label":
        sigmoid = (np.tanh(logits / 2) + 1) / 2  # this form never overflows
        return sigmoid.astype(np.float32)
    exponent = np.exp(logits - logits.max(axis=-1, keepdims=True))
    softmax: Logits = exponent / exponent.sum(axis=-1, keepdims=True)
    return softmax
