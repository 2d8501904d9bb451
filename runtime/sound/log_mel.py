"""Whisper's input: log-mel features of 16 kHz samples, with numpy alone."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from seq2edge.bundle.consistency import CLIP
from seq2edge.errors import InputError
from seq2edge.runtime.sound.resampling import Samples, Wide

SAMPLING_RATE, FFT, HOP = CLIP  # Hz, samples per window, samples between windows
SECONDS = 30  # length of the window that the encoder takes
FRAMES = SECONDS * SAMPLING_RATE // HOP


def log_mel(samples: Samples, *, mels: int = 80) -> NDArray[np.float32]:
    """Whisper's input features (mels, 3000) of at most 30 s of 16 kHz samples (length,).

    Shorter clips are padded with silence. Log10 of Slaney mel bands of the Hann-windowed power
    spectrum, clipped to 8 decades below the loudest and scaled by (x + 4) / 4 (Radford et al.,
    "Robust Speech Recognition via Large-Scale Weak Supervision", 2022, section 2.2).
    Raises InputError for clips that are empty, longer, or not finite.
    """
    check_clip(samples)
    power = _power(samples)
    bands = np.full((mels, FRAMES), 1e-10)
    bands[:, : len(power)] = np.maximum(mel_filters(mels) @ power.T, 1e-10)
    logs = np.log10(bands)
    logs = np.maximum(logs, logs.max() - 8.0)
    return np.asarray((logs + 4.0) / 4.0, np.float32)


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


def _power(samples: Samples) -> Wide:
    """Power spectrum (frames, bins) of the frames that hold more than padding."""
    frames = min(FRAMES, (len(samples) + FFT // 2) // HOP + 1)
    clip = np.zeros(SECONDS * SAMPLING_RATE, np.float64)
    clip[: len(samples)] = samples
    clip = np.pad(clip, FFT // 2, mode="reflect")
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(FFT) / FFT)
    spectrum = np.fft.rfft(sliding_window_view(clip, FFT)[::HOP][:frames] * hann)
    return np.asarray(spectrum.real**2 + spectrum.imag**2, np.float64)


def check_clip(samples: Samples, seconds: int = SECONDS) -> None:
    """Raise InputError for samples (length,) at 16 kHz that are none, too many or not finite."""
    if samples.ndim != 1 or not len(samples):
        raise InputError(f"audio: samples of shape {samples.shape}, one non-empty axis is needed")
    check_seconds(len(samples) / SAMPLING_RATE, longest=seconds)
    if not np.isfinite(samples).all():
        raise InputError("audio: some samples are infinite or not a number")


def check_seconds(seconds: float, subject: str = "audio: ", longest: int = SECONDS) -> None:
    """Raise InputError for a clip that is longer than the window."""
    if seconds > longest:
        raise InputError(f"{subject}{seconds:.2f} s, at most {longest} s fit one window, cut it")
