"""Audio in, log-mel features out, with numpy alone.

Formats: RIFF/WAVE with PCM of 8, 16, 24 or 32 bits or IEEE floats of 32 or 64 bits (Microsoft and
IBM, "Multimedia Programming Interface and Data Specifications 1.0", 1991; WAVE_FORMAT_EXTENSIBLE:
Microsoft, "Multiple channel audio data and WAVE files", 2001).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from seq2edge.bundle.consistency import CLIP
from seq2edge.errors import InputError

Samples: TypeAlias = NDArray[np.float32]  # (length,), full scale is -1 to 1
Wide: TypeAlias = NDArray[np.float64]

SAMPLING_RATE, FFT, HOP = CLIP  # Hz, samples per window, samples between windows
SECONDS = 30  # length of the window that the encoder takes
FRAMES = SECONDS * SAMPLING_RATE // HOP

LARGEST_FILE = 2**30  # bytes, more than an hour of 48 kHz stereo floats
LARGEST_CLIP = 2**27  # bytes of what fits one window, more than 30 s of 192 kHz stereo doubles
_RATES = (1_000, 768_000)  # Hz
_MOST_CHANNELS = 64
_UNKNOWN_SIZE = 0xFFFFFFFF  # a writer that could not seek back leaves this
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_CODECS = {2: "ADPCM", 6: "A-law", 7: "mu-law", 17: "IMA ADPCM", 0x50: "MPEG", 0x55: "MP3"}
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")  # after the two bytes of the format

_ZERO_CROSSINGS = 64  # of the sinc, on each side
_MOST_WEIGHTS = 2**24  # on one side, of all phases: any rate up to 192 kHz
_ROLLOFF = 0.935  # of the lower Nyquist frequency, where the response has fallen to one half
_KAISER_BETA = 14.0


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
    return _read_samples(source, LARGEST_FILE, clip=False)


def _read_samples(
    source: str | os.PathLike[str] | bytes, most: int, *, clip: bool
) -> tuple[Samples, int]:
    """The same of so many bytes, and of the seconds of a clip, which are known before samples."""
    subject = "audio" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else _read(Path(source), most)
    try:
        layout, body = _parse(data)
        if clip:
            width = layout.channels * layout.bits // 8
            _check_seconds(len(body) // width / layout.rate, "")
        return _decode(layout, body), layout.rate
    except InputError as error:
        raise InputError(f"{subject}: {error}") from None


def read_clip(source: str | os.PathLike[str] | bytes) -> Samples:
    """16 kHz samples (length,) of a WAVE file of at most 30 s, resampled where it has another rate.

    Raises InputError as `read_wav` does, and for longer clips.
    """
    return resample(*_read_samples(source, LARGEST_CLIP, clip=True))


def resample(samples: Samples, rate: int, target: int = SAMPLING_RATE) -> Samples:
    """Band-limited conversion of (length,) samples from `rate` to `target` Hz.

    Kaiser-windowed sinc interpolation at the exact rational ratio (J. O. Smith, "Digital Audio
    Resampling", CCRMA). Up to 0.87 of the lower Nyquist frequency a tone comes out within 1e-6
    of full scale; from that frequency up it is gone to within 1e-6, so nothing folds back.
    Raises InputError for rates outside 1 to 768 kHz, and for high ones that share little with it.
    """
    _check_rate(rate)
    if rate == target:
        return samples
    step = math.gcd(rate, target)
    up, down = target // step, rate // step
    cutoff = _ROLLOFF * min(1.0, up / down)
    half = math.ceil(_ZERO_CROSSINGS / cutoff)
    if up * half > _MOST_WEIGHTS:
        raise InputError(f"sampling rate: {rate} Hz takes too long to resample to {target} Hz")
    length = -(-len(samples) * up // down)
    padded = np.pad(samples.astype(np.float64), (half, half + down))
    windows = sliding_window_view(padded, 2 * half + 1)
    output = np.empty(length, np.float32)
    for phase in range(min(up, length)):
        first, rest = divmod(phase * down, up)
        weights = _sinc(rest / up, cutoff, half)
        count = -(-(length - phase) // up)
        output[phase::up] = windows[first::down][:count] @ weights
    return output


def log_mel(samples: Samples, *, mels: int = 80) -> NDArray[np.float32]:
    """Whisper's input features (mels, 3000) of at most 30 s of 16 kHz samples (length,).

    Shorter clips are padded with silence. Log10 of Slaney mel bands of the Hann-windowed power
    spectrum, clipped to 8 decades below the loudest and scaled by (x + 4) / 4 (Radford et al.,
    "Robust Speech Recognition via Large-Scale Weak Supervision", 2022, section 2.2).
    Raises InputError for clips that are empty, longer, or not finite.
    """
    _check_clip(samples)
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


def _check_clip(samples: Samples) -> None:
    if samples.ndim != 1 or not len(samples):
        raise InputError(f"audio: samples of shape {samples.shape}, one non-empty axis is needed")
    _check_seconds(len(samples) / SAMPLING_RATE)
    if not np.isfinite(samples).all():
        raise InputError("audio: some samples are infinite or not a number")


def _check_seconds(seconds: float, subject: str = "audio: ") -> None:
    if seconds > SECONDS:
        raise InputError(f"{subject}{seconds:.2f} s, at most {SECONDS} s fit one window, cut it")


def _sinc(shift: float, cutoff: float, half: int) -> Wide:
    offsets = np.arange(-half, half + 1, dtype=np.float64) - shift
    inside = np.maximum(0.0, 1.0 - (offsets / (half + 1)) ** 2)
    window = np.i0(_KAISER_BETA * np.sqrt(inside)) / np.i0(_KAISER_BETA)
    weights = np.asarray(np.sinc(cutoff * offsets) * window, np.float64)
    return np.asarray(weights / weights.sum(), np.float64)


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
    _check_rate(rate)
    return _Format(code=code, channels=channels, rate=rate, bits=bits)


def _check_rate(rate: int) -> None:
    if not _RATES[0] <= rate <= _RATES[1]:
        raise InputError(f"sampling rate: {rate} Hz, {_RATES[0]} to {_RATES[1]} Hz are read")


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
