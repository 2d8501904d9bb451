"""Samples as plain numbers: integers, floats and the logarithmic bytes of telephones.

A-law and mu-law: ITU-T Recommendation G.711, "Pulse code modulation (PCM) of voice frequencies",
1988. Names of encodings are those that ffmpeg and sox use.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from seq2edge.errors import InputError, OptionError
from seq2edge.runtime.sound.resampling import SAMPLING_RATE, Samples, Wide, check_rate

MOST_CHANNELS = 64
# Of each encoding its bytes a sample.
WIDTHS = {
    "u8": 1,
    "s8": 1,
    "alaw": 1,
    "mulaw": 1,
    **{f"s{8 * width}{order}": width for width in (2, 3, 4) for order in ("le", "be")},
    **{f"f{8 * width}{order}": width for width in (4, 8) for order in ("le", "be")},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawFormat:
    """What samples without a header are. Raises InputError for what is not read."""

    encoding: str = "s16le"
    """A name in `WIDTHS`."""

    rate: int = SAMPLING_RATE
    """Samples a second, of each channel."""

    channels: int = 1
    """Interleaved, 1 to 64; they are averaged."""

    def __post_init__(self) -> None:
        if self.encoding not in WIDTHS:
            raise InputError(f"encoding: {self.encoding!r} is unknown, known: {', '.join(WIDTHS)}")
        check_rate(self.rate)
        if not 1 <= self.channels <= MOST_CHANNELS:
            raise InputError(f"{self.channels} channels, 1 to {MOST_CHANNELS} are read")

    @classmethod
    def parse(cls, text: str) -> RawFormat:
        """Of "s16le,16000,1"; what is left out is as the defaults. Raises OptionError."""
        encoding, *numbers = (part.strip() for part in text.split(","))
        try:
            sizes = dict(zip(("rate", "channels"), map(int, numbers), strict=False))
            if len(numbers) > 2:
                raise InputError("more than an encoding, a rate and channels")
            return cls(encoding=encoding, **sizes)
        except (InputError, ValueError) as error:
            raise OptionError(f"raw: {text!r}: {error}; write it as s16le,16000,1") from None

    @property
    def frame(self) -> int:
        """Bytes of one sample of every channel."""
        return WIDTHS[self.encoding] * self.channels


def pcm_blocks(
    stream: BinaryIO, layout: RawFormat, *, size: int | None, frames: int
) -> Iterator[Samples]:
    """Blocks of so many frames, channels averaged, of the next `size` bytes; None: to the end.

    Raises InputError where a stream ends before its size, and for samples that are no numbers.
    """
    left, rest = size, b""
    while left is None or left > 0:
        most = frames * layout.frame - len(rest)
        data = stream.read(most if left is None else min(most, left))
        if not data:
            break
        left = None if left is None else left - len(data)
        data = rest + data
        whole = len(data) // layout.frame * layout.frame
        rest = data[whole:]
        if whole:
            yield mono(data[:whole], layout)
    if left and size is not None:
        raise InputError(f"{size - left} bytes of samples of {size}, the file is cut short")


def mono(data: bytes, layout: RawFormat) -> Samples:
    """Samples (frames,) of whole frames. Raises InputError for infinite, huge and no numbers."""
    return averaged(_values(data, layout.encoding).reshape(-1, layout.channels))


def averaged(values: Wide) -> Samples:
    """One channel (frames,) of several (frames, channels). Raises InputError as `mono`."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = values.mean(axis=1)
        samples = np.asarray(mean, np.float32)
    if not np.isfinite(samples).all():
        if np.isfinite(mean).all():
            raise InputError("some samples are too large")
        raise InputError("some samples are infinite or not a number")
    return samples


def _values(data: bytes, encoding: str) -> Wide:
    if encoding in ("alaw", "mulaw"):
        return (_alaw() if encoding == "alaw" else _mulaw())[np.frombuffer(data, np.uint8)]
    if encoding == "u8":
        return np.asarray(np.frombuffer(data, np.uint8) / 128.0 - 1.0, np.float64)
    width, order = WIDTHS[encoding], ">" if encoding.endswith("be") else "<"
    if encoding.startswith("f"):
        with np.errstate(invalid="ignore"):  # signalling NaNs, which are refused later
            return np.frombuffer(data, f"{order}f{width}").astype(np.float64)
    if width == 3:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        place = slice(1, None) if order == "<" else slice(None, 3)
        wide[:, place] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return np.asarray(wide.view(f"{order}i4")[:, 0] / 2.0**31, np.float64)
    return np.asarray(np.frombuffer(data, f"{order}i{width}") / 2.0 ** (8 * width - 1), np.float64)


@functools.cache
def _alaw() -> Wide:
    """The value of every byte: sign, three bits of exponent, four of mantissa; even bits turned."""
    code = np.arange(256) ^ 0x55
    exponent, mantissa = code >> 4 & 7, code & 15
    size = np.where(
        exponent == 0, 16 * mantissa + 8, (16 * mantissa + 264) << np.maximum(exponent - 1, 0)
    )
    return np.asarray(np.where(code & 0x80, size, -size) / 2.0**15, np.float64)


@functools.cache
def _mulaw() -> Wide:
    """The same of mu-law, whose bits are all turned."""
    code = np.arange(256) ^ 0xFF
    size = ((8 * (code & 15) + 132) << (code >> 4 & 7)) - 132
    return np.asarray(np.where(code & 0x80, -size, size) / 2.0**15, np.float64)
