"""Any recording gives the samples that it was made of, or one line that names it."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from limited import limited
from numpy.typing import NDArray
from sound_files import AV, SOUNDFILE, file_of

from seq2edge.errors import BackendError, InputError, OptionError, Seq2EdgeError
from seq2edge.runtime.sound import recording
from seq2edge.runtime.sound.pcm import WIDTHS, RawFormat
from seq2edge.runtime.sound.recording import open_sound, read_samples, read_sound
from seq2edge.runtime.sound.resampling import SAMPLING_RATE, resample

CLIP = Path(__file__).parents[3] / "examples" / "librivox.wav"
SENTENCE: NDArray[np.int16] = soundfile.read(CLIP, dtype="int16")[0]
VALUES = SENTENCE / 2.0**15
# How far from one the correlation may be, of what does not keep samples as they are.
LOSSY = {
    **dict.fromkeys(["wav-alaw", "wav-mulaw"], 2e-4),
    **dict.fromkeys(["mp3", "m4a", "aac", "ts", "mp4", "wav-adpcm"], 3e-3),
    "ogg": 6e-3,
    **dict.fromkeys(["opus", "webm"], 2e-2),
}


def alike(samples: NDArray[np.float32]) -> tuple[float, int]:
    """The highest correlation with the sentence, and how many samples later it is then."""
    ours, other = np.fft.rfft(VALUES, 2**18), np.fft.rfft(samples, 2**18)
    products = np.fft.irfft(other * ours.conj())
    place = int(products.argmax())
    norm = np.linalg.norm(VALUES) * np.linalg.norm(samples)
    return float(products[place] / norm), place


@pytest.mark.parametrize("name", [*SOUNDFILE, *AV])
def test_every_format_has_the_samples_that_it_was_made_of(tmp_path: Path, name: str) -> None:
    """Within a step where nothing is lost, else nearly; whatever the file is called."""
    path = tmp_path / "recording.txt"
    path.write_bytes(file_of(name, SENTENCE))
    samples = read_samples(path)
    assert samples.dtype == np.float32
    if name not in LOSSY:
        assert len(samples) == len(VALUES)
        np.testing.assert_allclose(samples, VALUES, atol=2.0**-15)
        return
    correlation, delay = alike(samples)
    assert correlation > 1 - LOSSY[name]
    assert delay in ({1024} if name in ("aac", "ts") else {0})  # of the codec


@pytest.mark.parametrize("name", ["wav-alaw", "wav-mulaw"])
def test_telephone_codes_are_those_of_libsndfile(name: str) -> None:
    """Every byte of both laws, value by value."""
    codes = bytes(range(256))
    data = file_of(name, np.zeros(256, np.int16), 8000).replace(
        (b"\xd5" if name == "wav-alaw" else b"\xff") * 256, codes
    )
    samples, rate = read_sound(data)
    assert rate == 8000
    np.testing.assert_array_equal(samples, soundfile.read(io.BytesIO(data), dtype="float32")[0])
    law = name.removeprefix("wav-")
    raw, _ = read_sound(codes, raw=RawFormat(encoding=law, rate=8000))
    np.testing.assert_array_equal(raw, samples)


@pytest.mark.parametrize("encoding", WIDTHS)
def test_raw_samples_of_every_encoding_are_read(encoding: str) -> None:
    """Two channels, their mean; half a frame at the end is left out."""
    left, right = np.linspace(-0.9, 0.9, 50), np.full(50, 0.25)
    both = np.stack([left, right], axis=1)
    kind = {"u8": "PCM_U8", "s8": "PCM_S8", "f32": "FLOAT", "f64": "DOUBLE"}.get(encoding[:3])
    kind = {"alaw": "ALAW", "mulaw": "ULAW"}.get(encoding, kind or f"PCM_{encoding[1:3]}")
    endian = "BIG" if encoding.endswith("be") else "LITTLE"
    stream = io.BytesIO()
    soundfile.write(stream, both, 8000, format="RAW", subtype=kind, endian=endian)
    layout = RawFormat.parse(f"{encoding}, 8000, 2")
    samples, rate = read_sound(stream.getvalue() + b"\0", raw=layout)
    assert rate == 8000
    near = 0.04 if "law" in encoding else 0.01 if "8" in encoding else 1e-4
    np.testing.assert_allclose(samples, both.mean(axis=1), atol=near)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s12le", "raw: 's12le': encoding: 's12le' is unknown, known: u8, s8, alaw"),
        ("s16le,0", "sampling rate: 0 Hz"),
        ("s16le,16000,65", "65 channels, 1 to 64 are read"),
        ("s16le,16 kHz", "write it as s16le,16000,1"),
        ("s16le,16000,1,1", "more than an encoding"),
        ("", "encoding: '' is unknown"),
    ],
)
def test_raw_formats_that_are_none_are_refused(text: str, message: str) -> None:
    """With what can be written."""
    with pytest.raises(OptionError, match=message):
        RawFormat.parse(text)


def test_raw_formats_have_defaults() -> None:
    """What a microphone gives to models."""
    assert RawFormat.parse("f32le") == RawFormat(encoding="f32le", rate=16000, channels=1)


def test_arrays_of_any_rate_are_read() -> None:
    """One axis, or two with channels behind; integers by their full scale."""
    np.testing.assert_array_equal(read_samples(SENTENCE), VALUES.astype(np.float32))
    wide = np.stack([VALUES, np.zeros_like(VALUES)], axis=1)
    np.testing.assert_allclose(read_samples(wide), VALUES / 2, atol=1e-7)
    samples = VALUES.astype(np.float32)
    ours = read_samples(samples, rate=44100)
    np.testing.assert_array_equal(ours, resample(samples, 44100))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(0, np.float32), r"samples of shape \(0,\)"),
        (np.zeros((2, 3, 4)), r"samples of shape \(2, 3, 4\)"),
        (np.zeros((4, 65)), "at most 64 channels"),
        (np.zeros(4, np.uint8), "samples of uint8; give floats, int16 or int32"),
        (np.zeros(4, complex), "samples of complex128"),
        (np.array(["a"]), "samples of <U1"),
        (np.array([np.nan]), "infinite or not a number"),
        (np.array([1e300]), "some samples are too large"),
    ],
)
def test_arrays_that_are_no_sound_are_refused(values: Any, message: str) -> None:
    """By their shape, type or values."""
    with pytest.raises(InputError, match=message):
        read_samples(values)


@pytest.mark.parametrize("name", ["wav16", "flac", "mp3", "mkv", "mp4"])
@pytest.mark.parametrize("kind", ["bytes", "file", "pipe", "standard input"])
def test_bytes_streams_and_standard_input_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    """Also those that cannot seek; as the file is."""
    data = file_of(name, SENTENCE)
    path = tmp_path / "x"
    path.write_bytes(data)
    expected = read_samples(path)
    if kind == "bytes":
        np.testing.assert_array_equal(read_samples(data), expected)
    elif kind == "file":
        with path.open("rb") as stream:
            np.testing.assert_array_equal(read_samples(stream), expected)
    else:
        with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as cat:
            assert cat.stdout is not None
            source: Any = cat.stdout
            if kind == "standard input":
                monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(cat.stdout))
                source = "-"
            np.testing.assert_array_equal(read_samples(source), expected)


def test_recordings_are_read_block_by_block() -> None:
    """Of a live stream so many seconds at a time."""
    with open_sound(file_of("wav16", SENTENCE), block=0.1) as sound:
        assert [len(block) for block in sound.blocks] == [1600] * 53
        assert sound.rate == SAMPLING_RATE


def wav_of(body: bytes, code: int = 1, bits: int = 16, channels: int = 1) -> bytes:
    """A WAVE file of 16 kHz."""
    align = channels * bits // 8
    layout = struct.pack("<HHIIHH", code, channels, 16000, 16000 * align, align, bits)
    chunks = b"fmt " + struct.pack("<I", 16) + layout + b"data" + struct.pack("<I", len(body))
    return b"RIFF" + struct.pack("<I", 4 + len(chunks + body)) + b"WAVE" + chunks + body


def broken() -> dict[str, bytes]:
    """Files that are no recordings, or were."""
    noise = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()
    short = SENTENCE[:32000]
    whole = {name: file_of(name, short) for name in ("wav16", "flac", "mp3", "ogg", "m4a", "mkv")}
    heads = {f"{name} of a head": data[:40] for name, data in whole.items()}
    damaged = {
        f"{name} of noise": data[:64] + noise for name, data in whole.items() if name != "wav16"
    }
    silent = io.BytesIO()
    soundfile.write(silent, np.zeros(0, np.int16), 16000, format="FLAC")
    return {
        **heads,
        **damaged,
        "empty": b"",
        "text": b"This is no recording at all.\n" * 20,
        "playlist": b"#EXTM3U\nfile:///etc/passwd\n",
        "concat": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        "noise": noise,
        "zeros": bytes(5000),
        "picture": b"\x89PNG\r\n\x1a\n" + noise,
        "wav cut short": whole["wav16"][:-1000],
        "flac cut short": whole["flac"][:-1000],
        "mp3 cut short": whole["mp3"][: len(whole["mp3"]) // 3],
        "m4a cut short": whole["m4a"][:-1000],
        "wav without samples": wav_of(b""),
        "flac without samples": silent.getvalue(),
        "wav of no numbers": wav_of(np.full(9, np.nan, "<f4").tobytes(), code=3, bits=32),
        "wav of infinite numbers": wav_of(np.full(9, np.inf, "<f8").tobytes(), code=3, bits=64),
        "wav of an unknown code": wav_of(bytes(100), code=0x1234),
        "wav of 99 channels": wav_of(bytes(1980), channels=99),
        "video without sound": whole["mkv"].replace(b"A_PCM/INT/LIT", b"A_NONE/INT/LI"),
    }


@pytest.mark.parametrize("name", broken())
@pytest.mark.parametrize("kind", ["file", "stream"])
def test_broken_files_give_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    """Which names the file; no library writes on the terminal beside it."""
    path = tmp_path / "talk.wav"
    path.write_bytes(broken()[name])
    with limited(seconds=20), pytest.raises(InputError) as raised:
        read_samples(io.BytesIO(path.read_bytes()) if kind == "stream" else path)
    message = str(raised.value)
    assert message.startswith("audio: " if kind == "stream" else f"{path}: ")
    assert "\n" not in message
    assert len(message) < 500
    assert capfd.readouterr() == ("", "")


def test_places_that_are_no_files_are_named(tmp_path: Path) -> None:
    """Folders, pipes, devices, nothing, and what no path can be."""
    os.mkfifo(tmp_path / "pipe")
    for place, message in {
        tmp_path: "no plain file; pipe it into standard input and read -",
        tmp_path / "pipe": "no plain file",
        Path("/dev/zero"): "no plain file",
        tmp_path / "nothing.mp3": "no such file",
        Path("x" * 300): "File name too long",
        Path("a\0b"): "",
    }.items():
        with limited(seconds=5), pytest.raises(InputError) as raised:
            read_samples(place)
        assert str(raised.value).startswith(str(place).replace("\0", "\\x00")[:3900])
        assert message in str(raised.value)
    with pytest.raises(InputError, match="int is no recording; give a path, bytes"):
        read_samples(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a stream of text, open it as binary"):
        read_samples(io.StringIO("text"))  # type: ignore[arg-type]


def test_a_small_file_that_lasts_for_days_is_stopped() -> None:
    """Silence compresses to nothing: what comes out is bounded, not what goes in."""
    stream = io.BytesIO()
    with soundfile.SoundFile(stream, "w", 8000, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(8):
            file.write(np.zeros(2**20, np.int16))
    assert len(stream.getvalue()) < 60_000
    with limited(memory=2**29), pytest.raises(InputError, match="audio: longer than 600 s, cut it"):
        read_samples(stream.getvalue(), longest=600)


def test_limits_of_bytes_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files before they are opened, of streams that have to be kept."""
    path = tmp_path / "x.flac"
    path.write_bytes(file_of("flac", SENTENCE))
    monkeypatch.setattr(recording, "LARGEST_FILE", 10)
    with pytest.raises(InputError, match=r"x\.flac: \d+ bytes, at most 10 are read, cut it"):
        read_samples(path)
    monkeypatch.setattr(recording, "LARGEST_STREAM", 1000)
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        with pytest.raises(InputError, match="audio: more than 1000 bytes of a stream"):
            read_samples(cat.stdout)


@pytest.mark.parametrize(
    ("name", "extra"), [("mp3", "audio"), ("flac", "audio"), ("mp4", "media"), ("webm", "media")]
)
def test_a_missing_library_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, name: str, extra: str
) -> None:
    """In one line with the format; plain WAVE files need none."""
    data = file_of(name, SENTENCE)
    for module in ("soundfile", "av"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError, match=rf"audio: .* needs a library; .*seq2edge\[{extra}\]"):
        read_samples(data)
    adpcm = wav_of(bytes(100), code=17)
    with pytest.raises(BackendError, match=r"IMA ADPCM in a WAVE file; install seq2edge\[audio\]"):
        read_samples(adpcm)
    assert len(read_samples(wav_of(bytes(100)))) == 50


@pytest.mark.parametrize("missing", ["soundfile", "av"])
@pytest.mark.parametrize("name", ["mp3", "flac", "ogg", "wav-adpcm", "wave64"])
def test_one_library_is_enough(monkeypatch: pytest.MonkeyPatch, missing: str, name: str) -> None:
    """What both can read is read by the one that is there."""
    data = file_of(name, SENTENCE)
    monkeypatch.setitem(sys.modules, missing, None)
    correlation, _ = alike(read_samples(data))
    assert correlation > 0.99


def test_any_change_of_a_byte_is_harmless_or_an_error_of_ours() -> None:
    """Of each format, with the library that reads it."""
    rng = np.random.default_rng(1)
    for name in ("wav16", "flac", "mp3", "ogg", "m4a", "mkv", "wav-adpcm"):
        data = file_of(name, SENTENCE[:16000])
        for _ in range(15):
            changed = bytearray(data)
            for place in rng.integers(0, min(len(data), 400), 4):
                changed[place] = rng.integers(256)
            with contextlib.suppress(Seq2EdgeError):  # and no other error
                assert np.isfinite(read_samples(bytes(changed))).all()
