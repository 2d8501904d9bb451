"""Band-limited resampling keeps what both rates hold, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import resample_poly

from seq2edge.runtime.sound import resampling
from seq2edge.runtime.sound.resampling import SAMPLING_RATE, Resampler, resample


def tone(hertz: float, rate: int, length: int) -> NDArray[np.float32]:
    """A sine of amplitude one."""
    return np.sin(2 * np.pi * hertz * np.arange(length) / rate).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_resampling_keeps_the_passband(rate: int) -> None:
    """Tones up to 0.87 of the lower Nyquist frequency come out as tones at 16 kHz."""
    nyquist = min(rate, SAMPLING_RATE) / 2
    for share in (0.001, 0.1, 0.25, 0.5, 0.75, 0.87):
        output = resample(tone(share * nyquist, rate, rate // 2), rate)
        expected = tone(share * nyquist, SAMPLING_RATE, len(output))
        assert len(output) == 8000 or rate == 11025
        np.testing.assert_allclose(output[2000:-2000], expected[2000:-2000], atol=1e-6)


@pytest.mark.parametrize("rate", [22050, 44100, 48000])
def test_resampling_does_not_alias(rate: int) -> None:
    """Tones from 8 kHz up vanish instead of folding back."""
    for hertz in (8010.0, 8200.0, 10500.0):
        output = resample(tone(hertz, rate, rate // 2), rate)
        assert np.abs(output[2000:-2000]).max() < 1e-6


def test_resampling_at_the_same_rate_changes_nothing() -> None:
    """16 kHz audio passes through."""
    samples = tone(440.0, SAMPLING_RATE, 100)
    assert resample(samples, SAMPLING_RATE) is samples


def test_very_short_clips_are_resampled() -> None:
    """Even one sample has a length at the new rate."""
    assert resample(np.ones(1, np.float32), 44100).shape == (1,)
    assert resample(np.ones(1, np.float32), 8000).shape == (2,)


def test_of_few_samples_only_their_filters_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A period at 191,999 Hz has 16,000 of them; what comes out is as of a longer recording."""
    samples = np.random.default_rng(0).normal(size=100).astype(np.float32)
    longer = np.concatenate([samples, np.zeros(3000, np.float32)])
    right = resample(longer, 16_016)[:100]
    np.testing.assert_allclose(resample(samples, 16_016), right, atol=1e-7)
    made: list[int] = []
    sinc = resampling._sinc
    monkeypatch.setattr(
        resampling,
        "_sinc",
        lambda shifts, *more: (made.append(len(shifts)), sinc(shifts, *more))[1],
    )
    assert len(resample(samples, 191_999)) == 9
    assert sum(made) == 9


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampling_equals_scipy(rate: int) -> None:
    """Noise below the passband's end, by polyphase filters of scipy that are as steep."""
    rng = np.random.default_rng(rate)
    spectrum = np.fft.rfft(rng.standard_normal(rate))
    spectrum[round(0.8 * min(rate, SAMPLING_RATE) / 2) :] = 0
    samples = np.fft.irfft(spectrum, rate).astype(np.float32)
    expected = resample_poly(samples.astype(np.float64), SAMPLING_RATE, rate, window=_steep(rate))
    np.testing.assert_allclose(resample(samples, rate)[500:-500], expected[500:-500], atol=2e-6)


def _steep(rate: int) -> NDArray[np.float64]:
    """A windowed sinc of 100 zero crossings, for scipy."""
    divisor = np.gcd(rate, SAMPLING_RATE)
    most = max(rate, SAMPLING_RATE) // divisor
    places = np.arange(-100 * most, 100 * most + 1) / most
    filters = np.sinc(0.94 * places) * np.kaiser(len(places), 14.0)
    return np.asarray(filters / filters.sum())


@pytest.mark.parametrize("rate", [8000, 44100, 48000, 44101])
@pytest.mark.parametrize("size", [100, 4096, 2**20])
def test_resampling_by_blocks_changes_nothing(rate: int, size: int) -> None:
    """Of any size: what was not told of a block is told with the next one."""
    samples = np.random.default_rng(0).standard_normal(rate // 2 + 7).astype(np.float32)
    resampler = Resampler(rate)
    parts = [resampler.feed(samples[at : at + size]) for at in range(0, len(samples), size)]
    output = np.concatenate([*parts, resampler.finish()])
    np.testing.assert_allclose(output, resample(samples, rate), atol=1e-7)
    if rate == 8000 and size == 4096:
        assert len(parts[0]) > 7000  # what is heard is told soon
