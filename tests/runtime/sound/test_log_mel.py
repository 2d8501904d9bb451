"""Log-mel features are those that Whisper was trained on."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from seq2edge.errors import InputError
from seq2edge.runtime.sound.log_mel import (
    FRAMES,
    SAMPLING_RATE,
    log_mel,
    mel_filters,
    recording_log_mel,
)


def tone(hertz: float, rate: int, length: int) -> NDArray[np.float32]:
    """A sine of amplitude one."""
    return np.sin(2 * np.pi * hertz * np.arange(length) / rate).astype(np.float32)


def test_features_of_unusable_samples_are_refused() -> None:
    """Empty, stacked or non-finite samples are InputErrors."""
    with pytest.raises(InputError, match=r"samples of shape \(0,\)"):
        log_mel(np.zeros(0, np.float32))
    with pytest.raises(InputError, match=r"samples of shape \(2, 3\)"):
        log_mel(np.zeros((2, 3), np.float32))
    with pytest.raises(InputError, match="infinite or not a number"):
        log_mel(np.full(10, np.inf, np.float32))


CLIPS: dict[str, NDArray[np.float32]] = {
    "noise": (0.1 * np.random.default_rng(0).standard_normal(50_000)).astype(np.float32),
    "tone": tone(440.0, SAMPLING_RATE, 100_000),
    "full window": (0.3 * np.random.default_rng(1).standard_normal(30 * SAMPLING_RATE)).astype(
        np.float32
    ),
    "few samples": np.float32([0.5, -0.25, 0.125]),
    "silence": np.zeros(4000, np.float32),
}


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize("name", CLIPS)
def test_features_equal_those_of_transformers(name: str, mels: int) -> None:
    """Log-mel features are transformers' to 1e-4, for 80 and 128 bands."""
    transformers = pytest.importorskip("transformers")
    extractor = transformers.WhisperFeatureExtractor(feature_size=mels)
    expected = extractor(CLIPS[name], sampling_rate=SAMPLING_RATE, return_tensors="np")
    features = log_mel(CLIPS[name], mels=mels)
    assert (features.dtype, features.shape) == (np.float32, (mels, FRAMES))
    np.testing.assert_allclose(features, expected["input_features"][0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [480_001, 1_000_123])
def test_features_of_recordings_equal_those_of_transformers(length: int) -> None:
    """A recording's loudest band, which is in its last part, is what all of it is clipped by."""
    transformers = pytest.importorskip("transformers")
    recording = (1e-3 * np.random.default_rng(3).standard_normal(length)).astype(np.float32)
    recording[-300:] += tone(440.0, SAMPLING_RATE, 300)
    extractor = transformers.WhisperFeatureExtractor()
    expected = extractor(
        recording,
        sampling_rate=SAMPLING_RATE,
        return_tensors="np",
        truncation=False,
        padding="longest",
    )
    features = recording_log_mel(recording)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected["input_features"][0], atol=1e-4, rtol=0)
    assert features[:, 2000].min() < features[:, 2000].max()
    alone = log_mel(recording[:320_000])
    assert np.abs(alone[:, :1000] - features[:, :1000]).max() > 0.1


def test_a_short_recording_has_the_features_of_a_clip() -> None:
    """Padded with silence to a window."""
    clip = CLIPS["noise"]
    np.testing.assert_array_equal(recording_log_mel(clip), log_mel(clip))


def test_filters_are_triangles_of_equal_area() -> None:
    """Each band rises and falls once; the wide ones integrate to one over frequency."""
    filters = mel_filters(80)
    assert filters.shape == (80, 201)
    assert (filters >= 0).all()
    np.testing.assert_allclose(filters[60:].sum(axis=1) * 40.0, 1.0, atol=0.02)
