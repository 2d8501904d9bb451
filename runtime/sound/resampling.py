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
_FEW_PHASES = 4096  # whose filters are kept, at most 100 MB
_MANY = 2**22  # samples that are waited for where filters are not kept
_BLOCK = 2**19  # samples that are resampled at a time
_ROLLOFF = 0.935  # of the lower Nyquist frequency, where the response has fallen to one half
_KAISER_BETA = 14.0


def resample(samples: Samples, rate: int, target: int = SAMPLING_RATE) -> Samples:
    """Band-limited conversion of (length,) samples from `rate` to `target` Hz.

    Kaiser-windowed sinc interpolation at the exact rational ratio (J. O. Smith, "Digital Audio
    Resampling", CCRMA). Up to 0.87 of the lower Nyquist frequency a tone comes out within 1e-6
    of full scale; from that frequency up it is gone to within 1e-6, so nothing folds back.
    Raises InputError for rates outside 1 to 768 kHz, and for high ones that share little with it.
    """
    resampler = Resampler(rate, target)
    if rate == target:
        return samples
    return np.concatenate([resampler.feed(samples), resampler.finish()])


class Resampler:
    """The same block by block, for recordings as they are read or heard.

    Outputs are made in periods: so many whole turns of the ratio that the windows of a period
    overlap little. The windows of many periods are a matrix, and the filter of every phase is a
    column of another, so that one product makes them all.
    """

    def __init__(self, rate: int, target: int = SAMPLING_RATE) -> None:
        check_rate(rate)
        step = math.gcd(rate, target)
        self._up, self._down = target // step, rate // step
        self._same = rate == target
        self._cutoff = _ROLLOFF * min(1.0, self._up / self._down)
        self._half = math.ceil(_ZERO_CROSSINGS / self._cutoff)
        if self._up * self._half > _MOST_WEIGHTS:
            raise InputError(f"sampling rate: {rate} Hz takes too long to resample to {target} Hz")
        self._group = max(1, 2 * self._half * self._up // self._down)  # outputs of one product
        turns = max(1, self._group // self._up)
        self._outputs, self._inputs = turns * self._up, turns * self._down  # of a period
        self._window = self._inputs + 2 * self._half  # inputs that a period looks at
        self._filters: dict[int, Wide] = {}
        self._rest = np.zeros(self._half)
        self._fed = self._made = 0

    def feed(self, samples: Samples) -> Samples:
        """What can be told of the samples so far, in whole periods."""
        if self._same:
            return samples
        self._fed += len(samples)
        made = []
        for start in range(0, len(samples), _BLOCK):
            block = samples[start : start + _BLOCK]
            self._rest = np.concatenate([self._rest, block.astype(np.float64)])
            if self._up <= _FEW_PHASES or len(self._rest) >= _MANY:
                made.append(self._periods())
        return np.concatenate(made) if made else np.empty(0, np.float32)

    def finish(self) -> Samples:
        """The rest, with silence behind the last sample."""
        if self._same:
            return np.empty(0, np.float32)
        short = -(-self._fed * self._up // self._down) - self._made
        periods = -(-short // self._outputs)
        missing = periods * self._inputs + 2 * self._half - len(self._rest)
        self._rest = np.concatenate([self._rest, np.zeros(max(0, missing))])
        return self._periods(short)[:short]

    def _periods(self, short: int | None = None) -> Samples:
        """The outputs of all periods whose inputs are there, which are forgotten then.

        Of a single period only the first ones are made where a `short` number is needed.
        """
        count = (len(self._rest) - 2 * self._half) // self._inputs
        if count <= 0:
            return np.empty(0, np.float32)
        windows = sliding_window_view(self._rest, self._window)[:: self._inputs][:count]
        made = self._outputs if short is None or count > 1 else min(short, self._outputs)
        outputs = np.empty((count, made), np.float32)
        for start in range(0, made, self._group):
            stop = min(start + self._group, made)
            weights = self._weights(start, stop)[:, : stop - start]
            first = start * self._down // self._up
            columns = np.ascontiguousarray(windows[:, first : first + len(weights)])
            outputs[:, start:stop] = columns @ weights
        self._rest = self._rest[count * self._inputs :].copy()
        self._made += outputs.size
        return outputs.ravel()

    def _weights(self, start: int, stop: int) -> Wide:
        """The filters of a period's outputs from start to stop, a column each (inputs, outputs)."""
        if start not in self._filters:
            places = [divmod(output * self._down, self._up) for output in range(start, stop)]
            first, width = places[0][0], 2 * self._half + 1
            shifts = np.array([rest / self._up for _, rest in places])
            filters = _sinc(shifts, self._cutoff, self._half)
            weights = np.zeros((places[-1][0] - first + width, stop - start))
            for column, (place, _) in enumerate(places):
                weights[place - first :, column][:width] = filters[column]
            if self._up > _FEW_PHASES:
                return weights
            self._filters[start] = weights
        return self._filters[start]


def check_rate(rate: int) -> None:
    """Raise InputError for a sampling rate in Hz that is not read."""
    if not _RATES[0] <= rate <= _RATES[1]:
        raise InputError(f"sampling rate: {rate} Hz, {_RATES[0]} to {_RATES[1]} Hz are read")


def _sinc(shifts: Wide, cutoff: float, half: int) -> Wide:
    """The filter of each shift, a part of an input's distance (shifts, 2 * half + 1)."""
    offsets = np.arange(-half, half + 1, dtype=np.float64) - shifts[:, None]
    inside = np.maximum(0.0, 1.0 - (offsets / (half + 1)) ** 2)
    window = np.i0(_KAISER_BETA * np.sqrt(inside)) / np.i0(_KAISER_BETA)
    weights = np.asarray(np.sinc(cutoff * offsets) * window, np.float64)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float64)
