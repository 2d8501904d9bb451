"""Voice activity: where somebody speaks, by how far the energy of bands rises above the noise.

Noise is what a band never falls below for a while: the minimum statistics of R. Martin, "Noise
Power Spectral Density Estimation Based on Optimal Smoothing and Minimum Statistics", 2001, here
before a frame and behind it, of which the larger counts: where noise begins or ends, one side is of
the quiet. So steady noise and hum of any level are no speech; music is.
"""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from seq2edge.errors import OptionError
from seq2edge.runtime.sound.log_mel import mel_filters
from seq2edge.runtime.sound.resampling import SAMPLING_RATE, Samples, Wide

Flags: TypeAlias = NDArray[np.bool_]  # (frames,)

_FFT = 400  # samples of a frame, 25 ms
_HOP = 160  # samples from one to the next, 10 ms
_MELS = 24  # bands, of which those that telephones carry are listened to
_LOW, _HIGH = 3, 21  # about 250 Hz to 5 kHz
_LOUDEST = 6  # bands that count: speech stands out in some, in white noise in the low ones alone
_SMOOTHED = 7  # frames that a band's energy is averaged over
_STRETCH = 10  # frames that have one noise, 0.1 s
_AROUND = 25  # stretches on each side that noise is looked for in
_STEADY = 3.9  # dB that the loudest bands of steady noise stand above its least, on average
_SILENCE = 1e-9  # power of a band that counts as silent: the rounding of 16 bits
_BLOCK = 2**10  # frames whose spectra are made at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActivityOptions:
    """What counts as speech, and how much around it. Raises OptionError out of range."""

    threshold: float = 3.0
    """Decibels above the noise at which speech begins; it ends at half of them."""

    min_speech: float = 0.1
    """Seconds; what is shorter is a click."""

    min_silence: float = 0.5
    """Seconds; a shorter pause ends no span."""

    padding: float = 0.3
    """Seconds before and behind each span: words begin and end softly."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 60:
            raise OptionError(f"threshold: {self.threshold} dB, above 0 to 60 are possible")
        for name in ("min_speech", "min_silence", "padding"):
            if not 0 <= getattr(self, name) <= 60:
                raise OptionError(f"{name}: {getattr(self, name)} s, 0 to 60 are possible")


_DEFAULT = ActivityOptions()


def speech_spans(samples: Samples, *, options: ActivityOptions = _DEFAULT) -> list[tuple[int, int]]:
    """Where somebody speaks in 16 kHz samples (length,): first sample and the one behind the last.

    Spans are in order, have pauses between them, and are none where nobody speaks.
    """
    above = _above_noise(samples)
    if not len(above):
        return []
    frames = _frames(options.min_speech)
    spans = [
        (start, stop)
        for start, stop in _runs(above > options.threshold / 2)
        if np.any(above[start:stop] > options.threshold)
    ]
    spans = [span for span in _joined(spans, _frames(options.min_silence)) if _long(span, frames)]
    pad, length = round(options.padding * SAMPLING_RATE), len(samples)
    padded = [
        (max(0, start * _HOP - pad), min(length, stop * _HOP + _FFT + pad)) for start, stop in spans
    ]
    return _joined(padded, 1)


def _frames(seconds: float) -> int:
    return round(seconds * SAMPLING_RATE / _HOP)


def _long(span: tuple[int, int], frames: int) -> bool:
    return span[1] - span[0] >= frames


def _above_noise(samples: Samples) -> Wide:
    """How many dB each frame stands above the noise around it (frames,), in noise about 0."""
    decibels = _smoothed(_band_energies(samples))
    if not len(decibels):
        return np.empty(0)
    short = -len(decibels) % _STRETCH
    least = np.pad(decibels, ((0, short), (0, 0)), mode="edge")
    least = least.reshape(-1, _STRETCH, decibels.shape[1]).min(axis=1)
    least = np.pad(least, ((_AROUND, _AROUND), (0, 0)), mode="edge")
    sides = sliding_window_view(least, _AROUND + 1, axis=0).min(axis=-1)
    noise = np.maximum(sides[:-_AROUND], sides[_AROUND:])  # up to a stretch, and from it on
    excess = decibels - np.repeat(noise, _STRETCH, axis=0)[: len(decibels)]
    loudest = np.partition(excess, -_LOUDEST, axis=1)[:, -_LOUDEST:]
    return np.asarray(loudest.mean(axis=1) - _STEADY, np.float64)


def _band_energies(samples: Samples) -> Wide:
    """Power in bands of every frame (frames, bands).

    In float32, which takes a third less time; what it rounds is far below what counts as silent.
    """
    frames = max(0, len(samples) - _FFT) // _HOP + (len(samples) >= _FFT)
    filters = mel_filters(_MELS)[_LOW:_HIGH].T.astype(np.float32)
    hann = np.hanning(_FFT).astype(np.float32)
    energies = np.empty((frames, filters.shape[1]))
    windows = sliding_window_view(samples, _FFT)[::_HOP] if frames else np.empty((0, _FFT))
    for start in range(0, frames, _BLOCK):
        spectrum = np.fft.rfft(windows[start : start + _BLOCK] * hann)
        power = spectrum.real**2 + spectrum.imag**2
        energies[start : start + _BLOCK] = power @ filters
    return energies


def _smoothed(energies: Wide) -> Wide:
    """In dB, averaged over neighbouring frames."""
    side = _SMOOTHED // 2
    padded = np.pad(energies, ((side, side), (0, 0)), mode="edge") if len(energies) else energies
    sums = sum(padded[shift : shift + len(energies)] for shift in range(2 * side + 1))
    return np.asarray(10.0 * np.log10(sums / (2 * side + 1) + _SILENCE), np.float64)


def _runs(flags: Flags) -> list[tuple[int, int]]:
    """Where flags are set: first and the one behind the last, of each run."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _joined(spans: list[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    """The same spans, in one where less than `gap` lies between them."""
    joined: list[tuple[int, int]] = []
    for start, stop in spans:
        if joined and start - joined[-1][1] < gap:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined
