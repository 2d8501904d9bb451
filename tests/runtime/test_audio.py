"""Audio: WAVE files of every kind read or refused, band-limited resampling, Whisper's features."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from limited import limited
from numpy.typing import NDArray

from seq2edge.errors import InputError
from seq2edge.runtime.audio import (
    FRAMES,
    SAMPLING_RATE,
    log_mel,
    mel_filters,
    read_clip,
    read_wav,
    resample,
)

RAMP = np.linspace(-0.9, 0.9, 37)
GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")


def wav(
    body: bytes, *, code: int = 1, channels: int = 1, rate: int = 16000, bits: int = 16
) -> bytes:
    """A WAVE file with one fmt and one data chunk."""
    align = channels * bits // 8
    layout = struct.pack("<HHIIHH", code, channels, rate, rate * align % 2**32, align, bits)
    return riff(chunk(b"fmt ", layout) + chunk(b"data", body))


def chunk(name: bytes, body: bytes) -> bytes:
    """One RIFF chunk, padded to an even size."""
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def riff(chunks: bytes) -> bytes:
    """The outer chunk of a WAVE file."""
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def pcm(values: NDArray[np.float64], bits: int) -> bytes:
    """Samples as integers of so many bits."""
    if bits == 8:
        return np.round(values * 128 + 128).astype(np.uint8).tobytes()
    integers = np.round(values * 2 ** (bits - 1)).astype("<i8").view(np.uint8).reshape(-1, 8)
    return integers[:, : bits // 8].tobytes()


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_integer_samples_are_scaled_to_one(bits: int) -> None:
    """PCM of every width comes out within one step of what was written."""
    samples, rate = read_wav(wav(pcm(RAMP, bits), bits=bits, rate=22050))
    assert (samples.dtype, samples.shape, rate) == (np.float32, RAMP.shape, 22050)
    np.testing.assert_allclose(samples, RAMP, atol=max(2.0 ** (1 - bits), 1e-7))


@pytest.mark.parametrize("bits", [32, 64])
def test_float_samples_are_kept(bits: int) -> None:
    """IEEE floats of both widths come out as they are."""
    data = wav(RAMP.astype(f"<f{bits // 8}").tobytes(), code=3, bits=bits)
    np.testing.assert_array_equal(read_wav(data)[0], RAMP.astype(np.float32))


def test_channels_are_averaged() -> None:
    """Stereo becomes the mean of left and right."""
    both = np.stack([RAMP, np.full_like(RAMP, 0.5)], axis=1)
    samples, _ = read_wav(wav(pcm(both.ravel(), 16), channels=2))
    np.testing.assert_allclose(samples, both.mean(axis=1), atol=1e-4)


def test_extensible_files_and_foreign_chunks_are_read(tmp_path: Path) -> None:
    """The extensible form, odd unknown chunks and a data size never filled in are all fine."""
    layout = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 16000, 48000, 3, 24, 22, 24, 4)
    layout += struct.pack("<H", 1) + GUID_TAIL
    body = b"data" + struct.pack("<I", 0xFFFFFFFF) + pcm(RAMP, 24)
    path = tmp_path / "x.wav"
    path.write_bytes(riff(chunk(b"LIST", b"odd") + chunk(b"fmt ", layout) + body))
    np.testing.assert_allclose(read_wav(path)[0], RAMP, atol=1e-6)


def test_the_example_clip_is_read() -> None:
    """The clip under examples/ is 5.3 s of speech at 16 kHz."""
    path = Path(__file__).parents[2] / "examples" / "librivox.wav"
    clip = read_clip(str(path))
    assert clip.shape == (84800,)
    assert 0.1 < np.abs(clip).max() <= 1.0


GOOD = wav(pcm(RAMP, 16))
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"audio: begins with b'', not a RIFF WAVE file"),
    "text": (b"hello world, no wave", "begins with b'hello world,', not a RIFF"),
    "big-endian": (b"RIFX" + GOOD[4:], "begins with b'RIFX"),
    "64-bit": (b"RF64" + GOOD[4:], "begins with b'RF64"),
    "no data": (GOOD[:36], "no data chunk, the file is cut short"),
    "cut": (GOOD[:-3], "71 bytes of samples of 74, the file is cut short"),
    "no samples": (wav(b""), "no samples"),
    "less than a frame": (wav(b"\0"), "no samples"),
    "short fmt": (riff(chunk(b"fmt ", b"\1\0\1\0")), "fmt chunk of 4 bytes, at least 16"),
    "data first": (riff(chunk(b"data", b"\0\0")), "data chunk comes before the fmt chunk"),
    "mp3": (wav(b"\0\0", code=0x55), "MP3 of 16 bits cannot be read, convert it to 16-bit PCM"),
    "mu-law": (wav(b"\0\0", code=7, bits=8), "mu-law of 8 bits cannot be read"),
    "unknown": (wav(b"\0\0", code=999), "format 999 of 16 bits cannot be read"),
    "12 bits": (wav(b"\0\0", bits=12), "PCM of 12 bits cannot be read"),
    "half": (wav(b"\0\0", code=3, bits=16), "float of 16 bits cannot be read"),
    "no channels": (wav(b"\0\0", channels=0), "0 channels in frames of 0 bytes"),
    "many channels": (wav(b"\0\0", channels=65), "65 channels in frames of 130 bytes"),
    "slow": (wav(b"\0\0", rate=0), "sampling rate: 0 Hz, 1000 to 768000 Hz are read"),
    "fast": (wav(b"\0\0", rate=2**31), "sampling rate: 2147483648 Hz"),
    "nan": (wav(np.float32(np.nan).tobytes(), code=3, bits=32), "infinite or not a number"),
    "huge": (wav(np.float64(1e300).tobytes(), code=3, bits=64), "some samples are too large"),
    "extensible": (
        riff(chunk(b"fmt ", struct.pack("<HHIIHH", 0xFFFE, 1, 16000, 32000, 2, 16))),
        "an extensible format of unknown kind",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_other_files_are_refused(name: str) -> None:
    """Whatever is not a readable WAVE file is an InputError that says why."""
    data, message = BAD[name]
    with pytest.raises(InputError, match=message):
        read_wav(data)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.integers(0, len(GOOD)))
def test_damage_never_escapes_as_another_error(place: int, value: int, length: int) -> None:
    """A changed byte or a cut end gives samples or an InputError, nothing else."""
    data = bytearray(GOOD)
    data[place] = value
    for damaged in (bytes(data), GOOD[:length]):
        try:
            samples, _ = read_wav(damaged)
        except InputError:
            continue
        assert np.isfinite(samples).all()


def test_unreadable_paths_are_named(tmp_path: Path) -> None:
    """A missing file and a folder are InputErrors with their names."""
    with pytest.raises(InputError, match=r"nowhere\.wav: no such file"):
        read_wav(tmp_path / "nowhere.wav")
    with pytest.raises(InputError, match="no such file"):
        read_wav(tmp_path)
    (tmp_path / "x.wav").write_bytes(b"no")
    with pytest.raises(InputError, match=r"x\.wav: begins with b'no'"):
        read_wav(str(tmp_path / "x.wav"))


def test_files_too_large_to_read_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is checked before anything is read."""
    monkeypatch.setattr("seq2edge.runtime.audio.LARGEST_FILE", 10)
    path = tmp_path / "x.wav"
    path.write_bytes(GOOD)
    with pytest.raises(InputError, match="118 bytes, at most 10 are read"):
        read_wav(path)


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


def test_clips_are_read_at_16_khz() -> None:
    """`read_clip` resamples, and a clip of exactly 30 s still fits."""
    clip = read_clip(wav(bytes(2 * 30 * 8000), rate=8000))
    assert clip.shape == (30 * SAMPLING_RATE,)


def test_clips_over_30_seconds_are_refused() -> None:
    """Longer audio is not cut silently."""
    with pytest.raises(InputError, match=r"audio: 30\.01 s, at most 30 s fit one window, cut it"):
        read_clip(wav(bytes(2 * 240080), rate=8000))
    long = wav(bytes(2**26), bits=8, rate=1000)  # as numbers it would have half a gigabyte
    with limited(memory=2**28), pytest.raises(InputError, match=r"67108\.86 s, at most 30 s fit"):
        read_clip(long)
    with pytest.raises(InputError, match=r"audio: 30\.00 s, at most 30 s fit"):
        log_mel(np.zeros(30 * SAMPLING_RATE + 1, np.float32))


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


def test_filters_are_triangles_of_equal_area() -> None:
    """Each band rises and falls once; the wide ones integrate to one over frequency."""
    filters = mel_filters(80)
    assert filters.shape == (80, 201)
    assert (filters >= 0).all()
    np.testing.assert_allclose(filters[60:].sum(axis=1) * 40.0, 1.0, atol=0.02)
