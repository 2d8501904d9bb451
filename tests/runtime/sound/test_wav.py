"""WAVE files of every kind are read, or refused by one line."""

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
from seq2edge.runtime.sound.log_mel import log_mel
from seq2edge.runtime.sound.recording import read_clip, read_sound
from seq2edge.runtime.sound.resampling import SAMPLING_RATE

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
    samples, rate = read_sound(wav(pcm(RAMP, bits), bits=bits, rate=22050))
    assert (samples.dtype, samples.shape, rate) == (np.float32, RAMP.shape, 22050)
    np.testing.assert_allclose(samples, RAMP, atol=max(2.0 ** (1 - bits), 1e-7))


@pytest.mark.parametrize("bits", [32, 64])
def test_float_samples_are_kept(bits: int) -> None:
    """IEEE floats of both widths come out as they are."""
    data = wav(RAMP.astype(f"<f{bits // 8}").tobytes(), code=3, bits=bits)
    np.testing.assert_array_equal(read_sound(data)[0], RAMP.astype(np.float32))


def test_channels_are_averaged() -> None:
    """Stereo becomes the mean of left and right."""
    both = np.stack([RAMP, np.full_like(RAMP, 0.5)], axis=1)
    samples, _ = read_sound(wav(pcm(both.ravel(), 16), channels=2))
    np.testing.assert_allclose(samples, both.mean(axis=1), atol=1e-4)


def test_extensible_files_and_foreign_chunks_are_read(tmp_path: Path) -> None:
    """The extensible form, odd unknown chunks and a data size never filled in are all fine."""
    layout = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 16000, 48000, 3, 24, 22, 24, 4)
    layout += struct.pack("<H", 1) + GUID_TAIL
    body = b"data" + struct.pack("<I", 0xFFFFFFFF) + pcm(RAMP, 24)
    path = tmp_path / "x.wav"
    path.write_bytes(riff(chunk(b"LIST", b"odd") + chunk(b"fmt ", layout) + body))
    np.testing.assert_allclose(read_sound(path)[0], RAMP, atol=1e-6)


def test_the_example_clip_is_read() -> None:
    """The clip under examples/ is 5.3 s of speech at 16 kHz."""
    path = Path(__file__).parents[3] / "examples" / "librivox.wav"
    clip = read_clip(str(path))
    assert clip.shape == (84800,)
    assert 0.1 < np.abs(clip).max() <= 1.0


GOOD = wav(pcm(RAMP, 16))
BAD: dict[str, tuple[bytes, str]] = {
    "no data": (GOOD[:36], "no data chunk, the file is cut short"),
    "a head": (GOOD[:12], "no data chunk, the file is cut short"),
    "cut": (GOOD[:-3], "71 bytes of samples of 74, the file is cut short"),
    "cut in fmt": (GOOD[:22], "the file is cut short in its fmt chunk"),
    "no samples": (wav(b""), "no samples"),
    "less than a frame": (wav(b"\0"), "no samples"),
    "short fmt": (riff(chunk(b"fmt ", b"\1\0\1\0")), "fmt chunk of 4 bytes, at least 16"),
    "long fmt": (riff(chunk(b"fmt ", bytes(2**17))), "fmt chunk of 131072 bytes"),
    "data first": (riff(chunk(b"data", b"\0\0")), "data chunk comes before the fmt chunk"),
    "many chunks": (riff(chunk(b"junk", b"") * 1001), "more than 1000 chunks before the samples"),
    "unknown": (wav(b"\0\0", code=999), "format 999 cannot be read, convert it to 16-bit PCM"),
    "12 bits": (wav(b"\0\0", bits=12), "PCM of 12 bits cannot be read"),
    "half": (wav(b"\0\0", code=3, bits=16), "float of 16 bits cannot be read"),
    "mu-law of 16 bits": (wav(b"\0\0", code=7), "mu-law of 16 bits cannot be read"),
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
        read_sound(data)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.integers(0, len(GOOD)))
def test_damage_never_escapes_as_another_error(place: int, value: int, length: int) -> None:
    """A changed byte or a cut end gives samples or an InputError, nothing else."""
    data = bytearray(GOOD)
    data[place] = value
    for damaged in (bytes(data), GOOD[:length]):
        try:
            samples, _ = read_sound(damaged)
        except InputError:
            continue
        assert np.isfinite(samples).all()


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0x80000000])
def test_sizes_that_a_writer_did_not_know_are_no_sizes(size: int) -> None:
    """Of ffmpeg, sox and arecord into a pipe: everything to the end is read."""
    data = bytearray(GOOD)
    data[40:44] = struct.pack("<I", size)
    assert len(read_sound(bytes(data))[0]) == len(RAMP)
    data[40:44] = data[4:8] = bytes(4)  # a recorder that was stopped
    assert len(read_sound(bytes(data))[0]) == len(RAMP)


def test_big_endian_and_64_bit_files_are_read() -> None:
    """RIFX, whose numbers are turned, and RF64, whose size stands in a chunk of its own."""
    layout = struct.pack(">HHIIHH", 1, 1, 16000, 32000, 2, 16)
    body = (RAMP * 2**15).astype(">i2").tobytes()
    rifx = b"RIFX" + struct.pack(">I", 36 + len(body)) + b"WAVEfmt " + struct.pack(">I", 16)
    rifx += layout + b"data" + struct.pack(">I", len(body)) + body
    np.testing.assert_allclose(read_sound(rifx)[0], RAMP, atol=2**-15)
    body = pcm(RAMP, 16)
    sizes = struct.pack("<QQQI", 0, len(body), len(RAMP), 0)
    rf64 = b"RF64\xff\xff\xff\xffWAVE" + chunk(b"ds64", sizes) + GOOD[12:36]
    rf64 += b"data\xff\xff\xff\xff" + body
    np.testing.assert_allclose(read_sound(rf64 + b"LIST")[0], RAMP, atol=2**-15)
    with pytest.raises(InputError, match="72 bytes of samples of 74, the file is cut short"):
        read_sound(rf64[:-2])


def test_clips_are_read_at_16_khz() -> None:
    """`read_clip` resamples, and a clip of exactly 30 s still fits."""
    clip = read_clip(wav(bytes(2 * 30 * 8000), rate=8000))
    assert clip.shape == (30 * SAMPLING_RATE,)


def test_clips_over_30_seconds_are_refused() -> None:
    """Longer audio is not cut silently."""
    with pytest.raises(InputError, match=r"audio: longer than 30 s, cut it"):
        read_clip(wav(bytes(2 * 240080), rate=8000))
    long = wav(bytes(2**26), bits=8, rate=1000)  # as numbers it would have half a gigabyte
    with limited(memory=2**28), pytest.raises(InputError, match="longer than 30 s"):
        read_clip(long)
    with pytest.raises(InputError, match=r"audio: 30\.00 s, at most 30 s fit"):
        log_mel(np.zeros(30 * SAMPLING_RATE + 1, np.float32))
