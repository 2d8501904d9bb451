"""Whisper's input: log-mel features of 16 kHz samples, with numpy alone."""

from __future__ import annotations

import functools
import math
from typing import TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from seq2edge.bundle.consistency import CLIP
from seq2edge.errors import InputError
from seq2edge.runtime.sound.resampling import Samples, Wide

SAMPLING_RATE, FFT, HOP = CLIP  # Hz, samples per window, samples between windows
SECONDS = 30  # length of the window that the encoder takes
FRAMES = SECONDS * SAMPLING_RATE // HOP
FRAME_RATE = SAMPLING_RATE // HOP  # frames a second
_FLOOR = 1e-10  # power at which a band is silent

Features: TypeAlias = NDArray[np.float32]  # (mels, frames)


def log_mel(samples: Samples, *, mels: int = 80) -> Features:
    """Whisper's input features (mels, 3000) of at most 30 s of 16 kHz samples (length,).

    Shorter clips are padded with silence. Log10 of Slaney mel bands of the Hann-windowed power
    spectrum, clipped to 8 decades below the loudest and scaled by (x + 4) / 4 (Radford et al.,
    "Robust Speech Recognition via Large-Scale Weak Supervision", 2022, section 2.2).
    Raises InputError for clips that are empty, longer, or not finite.
    """
    check_samples(samples)
    check_seconds(len(samples) / SAMPLING_RATE)
    clip = np.zeros(SECONDS * SAMPLING_RATE, np.float32)
    clip[: len(samples)] = samples
    # Frames behind the last sample hold padding alone.
    return _log_bands(clip, min(FRAMES, (len(samples) + FFT // 2) // HOP + 1), mels)


def recording_log_mel(samples: Samples, *, mels: int = 80) -> Features:
    """The same of a whole recording of any length, (mels, frames).

    A frame every 10 ms, and 3000 at least, since what is shorter than a window is padded as
    `log_mel` pads it. The loudest band of all the recording is what the others are clipped by, so
    a part of it has other features than alone. Raises InputError for recordings that are empty or
    not finite.
    """
    if len(samples) <= SECONDS * SAMPLING_RATE:
        return log_mel(samples, mels=mels)
    check_samples(samples)
    return _log_bands(samples, len(samples) // HOP, mels, len(samples) // HOP)


def _log_bands(clip: Samples, heard: int, mels: int, frames: int = FRAMES) -> Features:
    """Features (mels, frames) of a clip of which frames from `heard` on are silent."""
    logs = np.full((mels, frames), math.log10(_FLOOR), np.float32)
    filters = mel_filters(mels).astype(np.float32)
    for first in range(0, heard, FRAMES):
        last = min(first + FRAMES, heard)
        bands = np.maximum(filters @ _power(clip, first, last).T, _FLOOR)
        logs[:, first:last] = np.log10(bands, out=bands)
    np.maximum(logs, logs.max() - np.float32(8.0), out=logs)
    logs += np.float32(4.0)
    logs /= np.float32(4.0)
    return logs


@functools.lru_cache(maxsize=4)
def mel_filters(mels: int) -> Wide:
    """Triangular filters of equal area (mels, FFT // 2 + 1), 0 to 8 kHz.

    Their centres are evenly spaced on Slaney's scale: linear below 1 kHz, logarithmic above
    (M. Slaney, "Auditory Toolbox", Technical Report 1998-010).
    """
    bins = np.linspace(0.0, SAMPLING_RATE / 2, FFT // 2 + 1)
    scale = np.linspace(0.0, _mel(SAMPLING_RATE / 2), mels + 2)
    edges = np.where(scale < 15.0, scale * 200.0 / 3.0, 1000.0 * 6.4 ** ((scale - 15.0) / 27.0))
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (bins - low) / (centre - low)
    falling = (high - bins) / (high - centre)
    filters: Wide = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (high - low))
    filters.flags.writeable = False
    return filters


def _mel(hertz: float) -> float:
    return 15.0 + 27.0 * math.log(hertz / 1000.0) / math.log(6.4)  # above 1 kHz


def _power(clip: Samples, first: int, last: int) -> Features:
    """Power spectrum (frames, bins) of some frames, the clip mirrored at its ends."""
    begin, end = first * HOP - FFT // 2, (last - 1) * HOP + FFT // 2
    if begin >= 0 and end <= len(clip):
        part = clip[begin:end]
    else:
        places = np.abs(np.arange(begin, end))
        part = clip[np.minimum(places, 2 * (len(clip) - 1) - places)]
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(FFT) / FFT)
    spectrum = np.fft.rfft(sliding_window_view(part, FFT)[::HOP] * hann.astype(np.float32))
    return np.asarray(spectrum.real**2 + spectrum.imag**2, np.float32)


def check_samples(samples: Samples) -> None:
    """Raise InputError for samples that are not one axis of finite numbers, one at least."""
    if samples.ndim != 1 or not len(samples):
        raise InputError(f"audio: samples of shape {samples.shape}, one non-empty axis is needed")
    if not np.isfinite(samples).all():
        raise InputError("audio: some samples are infinite or not a number")


def check_seconds(seconds: float, subject: str = "audio: ", longest: int = SECONDS) -> None:
    """Raise InputError for a clip that is longer than the window."""
    if seconds > longest:
        raise InputError(f"{subject}{seconds:.2f} s, at most {longest} s fit one window, cut it")
