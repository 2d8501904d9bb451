"""Speech is found in silence, hiss and hum, and nothing is found where nobody speaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seq2edge.errors import OptionError
from seq2edge.runtime.sound.activity import ActivityOptions, speech_spans
from seq2edge.runtime.sound.recording import read_sound
from seq2edge.runtime.sound.resampling import SAMPLING_RATE, resample

CLIP = Path(__file__).parents[3] / "examples" / "librivox.wav"
NOISES = ["silence", "white", "pink", "hum"]


def noise(kind: str, seconds: float) -> NDArray[np.float64]:
    """Steady noise of a mean square of one, or nothing."""
    length = round(seconds * SAMPLING_RATE)
    rng = np.random.default_rng(length)
    values = np.zeros(length)
    if kind == "white":
        values = rng.standard_normal(length)
    elif kind == "pink":
        spectrum = np.fft.rfft(rng.standard_normal(length))
        values = np.fft.irfft(spectrum / np.sqrt(np.maximum(1, np.arange(len(spectrum)))), length)
    elif kind == "hum":
        time = np.arange(length) / SAMPLING_RATE
        values = sum(np.sin(100 * np.pi * k * time + k) / k for k in range(1, 12))
    return values / max(np.sqrt(np.mean(values**2)), 1e-9)


@pytest.fixture(scope="module")
def speech() -> NDArray[np.float32]:
    """The example's sentence without the pauses around it."""
    samples, _ = read_sound(CLIP)
    loud = np.flatnonzero(np.abs(samples) > 0.02)
    return samples[loud[0] : loud[-1]]


def covered(spans: list[tuple[int, int]], length: int) -> NDArray[np.bool_]:
    """Which samples lie in spans."""
    inside = np.zeros(length, bool)
    for start, stop in spans:
        inside[start:stop] = True
    return inside


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("level", [1e-4, 1e-2, 0.2])
def test_a_minute_without_speech_has_no_spans(kind: str, level: float) -> None:
    """Of digital silence, hiss and hum, soft or loud."""
    assert speech_spans((noise(kind, 60) * level).astype(np.float32)) == []


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("ratio", [30, 20, 10])  # dB of speech over noise
@pytest.mark.parametrize("gain", [0.003, 1.0])
def test_speech_is_found_and_the_silence_around_it_is_not(
    speech: Any, kind: str, ratio: float, gain: float
) -> None:
    """More than 98 % of it, and no more around it than the padding and a little."""
    before = 5 * SAMPLING_RATE
    samples = noise(kind, 10 + len(speech) / SAMPLING_RATE) * np.sqrt(np.mean(speech**2))
    samples *= 10 ** (-ratio / 20)
    samples[before : before + len(speech)] += speech
    spans = speech_spans((gain * samples).astype(np.float32))
    inside = covered(spans, len(samples))
    assert inside[before : before + len(speech)].mean() > 0.98
    assert inside.sum() - len(speech) < 1.2 * SAMPLING_RATE


def test_speech_without_any_pause_around_it_is_found(speech: Any) -> None:
    """A clip that was cut to its words has no noise to be compared with."""
    assert covered(speech_spans(speech), len(speech)).mean() > 0.98
    word = speech[: SAMPLING_RATE // 2]
    assert covered(speech_spans(word), len(word)).mean() > 0.98


def test_speech_over_a_telephone_is_found(speech: Any) -> None:
    """What 8 kHz cannot hold is not needed."""
    narrow = resample(resample(speech, SAMPLING_RATE, 8000), 8000)
    assert covered(speech_spans(narrow), len(narrow)).mean() > 0.98


def test_spans_are_parted_at_pauses_that_are_long_enough(speech: Any) -> None:
    """Two sentences with two seconds between them are two spans, in order."""
    pause = np.zeros(2 * SAMPLING_RATE, np.float32)
    samples = np.concatenate([speech, pause, speech])
    (start, stop), (again, end) = speech_spans(samples)
    assert start == 0
    assert len(speech) <= stop < again <= len(speech) + len(pause)
    assert end == len(samples)
    assert len(speech_spans(samples, options=ActivityOptions(min_silence=3))) == 1
    assert len(speech_spans(samples, options=ActivityOptions(padding=2))) == 1


def test_clicks_are_no_speech() -> None:
    """What is shorter than `min_speech` is left out."""
    samples = np.zeros(3 * SAMPLING_RATE, np.float32)
    samples[SAMPLING_RATE : SAMPLING_RATE + 16] = 0.5
    assert speech_spans(samples) == []
    assert len(speech_spans(samples, options=ActivityOptions(min_speech=0))) == 1


@pytest.mark.parametrize("length", [0, 1, 399, 400, 401, 700])
def test_very_short_clips_have_spans_or_none(length: int) -> None:
    """Silence of any length has none."""
    assert speech_spans(np.zeros(length, np.float32)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.0}, "threshold: 0.0 dB"),
        ({"min_speech": -1.0}, "min_speech: -1.0 s"),
        ({"min_silence": float("nan")}, "min_silence: nan s"),
        ({"padding": 61.0}, "padding: 61.0 s"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    """By their names."""
    with pytest.raises(OptionError, match=message):
        ActivityOptions(**options)
