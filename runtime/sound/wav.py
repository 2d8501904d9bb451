"""WAVE files, with numpy alone.

Formats: RIFF/WAVE with PCM of 8, 16, 24 or 32 bits or IEEE floats of 32 or 64 bits (Microsoft and
IBM, "Multimedia Programming Interface and Data Specifications 1.0", 1991; WAVE_FORMAT_EXTENSIBLE:
Microsoft, "Multiple channel audio data and WAVE files", 2001).
"""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from seq2edge.errors import InputError
from seq2edge.runtime.sound.log_mel import SECONDS, check_seconds
from seq2edge.runtime.sound.resampling import Samples, Wide, check_rate, resample

LARGEST_FILE = 2**30  # bytes, more than an hour of 48 kHz stereo floats
LARGEST_CLIP = 2**27  # bytes of what fits one window, more than 30 s of 192 kHz stereo doubles
_MOST_CHANNELS = 64
_UNKNOWN_SIZE = 0xFFFFFFFF  # a writer that could not seek back leaves this
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_CODECS = {2: "ADPCM", 6: "A-law", 7: "mu-law", 17: "IMA ADPCM", 0x50: "MPEG", 0x55: "MP3"}
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")  # after the two bytes of the format


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Format:
    code: int
    channels: int
    rate: int
    bits: int


def read_wav(source: str | os.PathLike[str] | bytes) -> tuple[Samples, int]:
    """Samples and sampling rate in Hz of a WAVE file or of its bytes.

    Samples are (length,) float32; several channels are averaged to one. Raises InputError for
    files that cannot be read, are damaged, empty or in another encoding.
    """
    return _read_samples(source, LARGEST_FILE)


def _read_samples(
    source: str | os.PathLike[str] | bytes, most: int, seconds: int = 0
) -> tuple[Samples, int]:
    """The same of so many bytes, and of a clip of so many seconds, known before its samples."""
    subject = "audio" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else _read(Path(source), most)
    try:
        layout, body = _parse(data)
        if seconds:
            width = layout.channels * layout.bits // 8
            check_seconds(len(body) // width / layout.rate, "", seconds)
        return _decode(layout, body), layout.rate
    except InputError as error:
        raise InputError(f"{subject}: {error}") from None


def read_clip(source: str | os.PathLike[str] | bytes, *, seconds: int = SECONDS) -> Samples:
    """16 kHz samples (length,) of a WAVE file of so many seconds at most, resampled if need be.

    Raises InputError as `read_wav` does, and for longer clips.
    """
    most = LARGEST_CLIP * max(1, -(-seconds // SECONDS))
    return resample(*_read_samples(source, most, seconds))


def _read(path: Path, most: int) -> bytes:
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        if (size := path.stat().st_size) > most:
            raise InputError(f"{path}: {size} bytes, at most {most} are read, cut it")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path that none can be
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _parse(data: bytes) -> tuple[_Format, bytes]:
    if data[:4] in (b"RIFX", b"RF64") or data[:4] + data[8:12] != b"RIFFWAVE":
        raise InputError(f"begins with {data[:12]!r}, not a RIFF WAVE file, convert it to WAVE")
    layout = None
    for name, body, size in _chunks(data):
        if name == b"fmt ":
            layout = _read_format(body)
        elif name == b"data":
            if layout is None:
                raise InputError("the data chunk comes before the fmt chunk")
            if len(body) < size != _UNKNOWN_SIZE:
                raise InputError(f"{len(body)} bytes of samples of {size}, the file is cut short")
            return layout, body
    raise InputError("no data chunk, the file is cut short or holds no sound")


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Name, contents and declared size of each chunk."""
    start = 12
    while start + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, start)
        yield name, data[start + 8 : start + 8 + size], size
        start += 8 + size + size % 2


def _read_format(body: bytes) -> _Format:
    if len(body) < 16:
        raise InputError(f"a fmt chunk of {len(body)} bytes, at least 16 are needed")
    code, channels, rate, _, align, bits = struct.unpack_from("<HHIIHH", body)
    if code == _EXTENSIBLE:
        if len(body) < 40 or body[26:40] != _GUID_TAIL:
            raise InputError("an extensible format of unknown kind, convert it to 16-bit PCM")
        (code,) = struct.unpack_from("<H", body, 24)
    if bits not in {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}.get(code, ()):
        kind = {_PCM: "PCM", _FLOAT: "float", **_CODECS}.get(code, f"format {code}")
        raise InputError(f"{kind} of {bits} bits cannot be read, convert it to 16-bit PCM")
    if not 1 <= channels <= _MOST_CHANNELS or align != channels * bits // 8:
        raise InputError(f"{channels} channels in frames of {align} bytes at {bits} bits")
    check_rate(rate)
    return _Format(code=code, channels=channels, rate=rate, bits=bits)


def _decode(layout: _Format, body: bytes) -> Samples:
    width = layout.channels * layout.bits // 8
    count = len(body) // width
    if not count:
        raise InputError("no samples")
    values = _values(layout, body[: count * width]).reshape(count, layout.channels).mean(axis=1)
    if not np.isfinite(values).all():
        raise InputError("some samples are infinite or not a number")
    with np.errstate(over="ignore"):
        samples = np.asarray(values, np.float32)
    if not np.isfinite(samples).all():
        raise InputError("some samples are too large")
    return samples


def _values(layout: _Format, body: bytes) -> Wide:
    if layout.code == _FLOAT:
        return np.frombuffer(body, f"<f{layout.bits // 8}").astype(np.float64)
    if layout.bits == 8:
        return np.asarray(np.frombuffer(body, np.uint8) / 128.0 - 1.0, np.float64)
    if layout.bits == 24:
        wide = np.zeros((len(body) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(body, np.uint8).reshape(-1, 3)
        return np.asarray(wide.view("<i4")[:, 0] / 2.0**31, np.float64)
    integers = np.frombuffer(body, f"<i{layout.bits // 8}")
    return np.asarray(integers / 2.0 ** (layout.bits - 1), np.float64)
