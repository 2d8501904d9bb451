"""Sampling rates: what they may be, and band-limited conversion from one to another."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from seq2edge.bundle.consistency import CLIP
from seq2edge.errors import InputError

Samples: TypeAlias = NDArray[np.float32]  # (length,), full scale is -1 to 1
Wide: TypeAlias = NDArray[np.float64]

SAMPLING_RATE = CLIP[0]  # Hz, of what models read

_RATES = (1_000, 768_000)  # Hz
_ZERO_CROSSINGS = 64  # of the sinc, on each side
_MOST_WEIGHTS = 2**24  # on one side, of all phases: any rate up to 192 kHz
_ROLLOFF = 0.935  # of the lower Nyquist frequency, where the response has fallen to one half
_KAISER_BETA = 14.0


def resample(samples: Samples, rate: int, target: int = SAMPLING_RATE) -> Samples:
    """Band-limited conversion of (length,) samples from `rate` to `target` Hz.

    Kaiser-windowed sinc interpolation at the exact rational ratio (J. O. Smith, "Digital Audio
    Resampling", CCRMA). Up to 0.87 of the lower Nyquist frequency a tone comes out within 1e-6
    of full scale; from that frequency up it is gone to within 1e-6, so nothing folds back.
    Raises InputError for rates outside 1 to 768 kHz, and for high ones that share little with it.
    """
    check_rate(rate)
    if rate == target:
        return samples
    step = math.gcd(rate, target)
    up, down = target // step, rate // step
    cutoff = _ROLLOFF * min(1.0, up / down)
    half = math.ceil(_ZERO_CROSSINGS / cutoff)
    if up * half > _MOST_WEIGHTS:
        raise InputError(f"sampling rate: {rate} Hz takes too long to resample to {target} Hz")
    length = -(-len(samples) * up // down)
    padded = np.pad(samples.astype(np.float64), (half, half + down))
    windows = sliding_window_view(padded, 2 * half + 1)
    output = np.empty(length, np.float32)
    for phase in range(min(up, length)):
        first, rest = divmod(phase * down, up)
        weights = _sinc(rest / up, cutoff, half)
        count = -(-(length - phase) // up)
        output[phase::up] = windows[first::down][:count] @ weights
    return output


def check_rate(rate: int) -> None:
    """Raise InputError for a sampling rate in Hz that is not read."""
    if not _RATES[0] <= rate <= _RATES[1]:
        raise InputError(f"sampling rate: {rate} Hz, {_RATES[0]} to {_RATES[1]} Hz are read")


def _sinc(shift: float, cutoff: float, half: int) -> Wide:
    offsets = np.arange(-half, half + 1, dtype=np.float64) - shift
    inside = np.maximum(0.0, 1.0 - (offsets / (half + 1)) ** 2)
    window = np.i0(_KAISER_BETA * np.sqrt(inside)) / np.i0(_KAISER_BETA)
    weights = np.asarray(np.sinc(cutoff * offsets) * window, np.float64)
    return np.asarray(weights / weights.sum(), np.float64)
