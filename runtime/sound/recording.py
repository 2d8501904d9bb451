"""Any recording in, samples out: files, bytes, streams, raw samples and arrays."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import BackendError, InputError
from seq2edge.runtime.sound import libraries, wav
from seq2edge.runtime.sound.log_mel import SECONDS
from seq2edge.runtime.sound.pcm import MOST_CHANNELS, RawFormat, averaged, pcm_blocks
from seq2edge.runtime.sound.resampling import SAMPLING_RATE, Resampler, Samples, check_rate

# A path, "-" for standard input, a file's bytes, a binary stream, or samples (length,) or
# (length, channels): floats of full scale 1, or integers of 16 or 32 bits.
Recording: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | NDArray[Any]"

LONGEST = 8 * 3600.0  # seconds that are read: 1.8 GB of samples at 16 kHz
LARGEST_FILE = 2**35  # bytes of a file; a video's pictures are passed over
LARGEST_STREAM = 2**30  # bytes of a stream that has to be kept, since its library seeks in it
_BLOCK = 2**16  # samples that are read at a time


@dataclasses.dataclass(frozen=True)
class Sound:
    """An open recording: its sampling rate in Hz and its samples, block by block."""

    rate: int
    blocks: Iterator[Samples]


def read_sound(
    recording: Recording, *, raw: RawFormat | None = None, longest: float = LONGEST
) -> tuple[Samples, int]:
    """Samples (length,) of a recording, channels averaged, and its own sampling rate in Hz.

    An array is taken to have 16 kHz. Raises InputError, which names the recording, for what cannot
    be read, is damaged, empty, or lasts more than `longest` seconds; BackendError where a library
    is missing.
    """
    with open_sound(recording, raw=raw) as sound:
        return _gathered(sound.blocks, sound.rate, longest, subject_of(recording)), sound.rate


def read_samples(
    recording: Recording,
    *,
    raw: RawFormat | None = None,
    rate: int | None = None,
    longest: float = LONGEST,
) -> Samples:
    """The same at 16 kHz, which is what models read; an array has `rate`, by default 16 kHz.

    It is resampled as it is read, so that memory stays near what comes out.
    """
    with open_sound(recording, raw=raw, rate=rate) as sound:
        blocks = resampled(sound)
        return _gathered(blocks, SAMPLING_RATE, longest, subject_of(recording))


def read_clip(recording: Recording, *, seconds: float = SECONDS) -> Samples:
    """16 kHz samples (length,) of a recording of at most so many seconds: a window of a model."""
    return read_samples(recording, longest=seconds)


def resampled(sound: Sound) -> Iterator[Samples]:
    """Its blocks at 16 kHz."""
    resampler = Resampler(sound.rate)
    for block in sound.blocks:
        yield resampler.feed(block)
    yield resampler.finish()


def subject_of(recording: Recording) -> str:
    """What messages call a recording."""
    if isinstance(recording, (str, os.PathLike)):
        return "standard input" if str(recording) == "-" else str(recording)
    return "audio"


@contextlib.contextmanager
def open_sound(
    recording: Recording,
    *,
    raw: RawFormat | None = None,
    rate: int | None = None,
    block: float | None = None,
) -> Iterator[Sound]:
    """A recording to be read block by block; of streams `block` seconds at a time.

    Raises InputError and BackendError as `read_sound` does, also from its blocks.
    """
    subject = subject_of(recording)
    with contextlib.ExitStack() as stack:
        with _about(subject):
            if isinstance(recording, np.ndarray):
                if raw is not None:
                    raise InputError("an array is no stream of raw samples")
                sound = _of_array(recording, SAMPLING_RATE if rate is None else rate)
            elif rate is not None:
                raise InputError("a rate goes with arrays, recordings say their own")
            else:
                sound = _open(_stream(recording, stack), raw, block, stack)
        yield Sound(sound.rate, _named(sound.blocks, subject))


@contextlib.contextmanager
def _about(subject: str) -> Iterator[None]:
    """Errors with the name of the recording in front."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{subject}: {error}") from error.__cause__
    except BackendError as error:
        raise BackendError(f"{subject}: {error}") from error.__cause__
    except OSError as error:
        raise InputError(f"{subject}: {error.strerror or error}") from error


def _named(blocks: Iterator[Samples], subject: str) -> Iterator[Samples]:
    while True:
        with _about(subject):
            block = next(blocks, None)
        if block is None:
            return
        yield block


def _stream(recording: Any, stack: contextlib.ExitStack) -> BinaryIO:
    if isinstance(recording, (bytes, bytearray, memoryview)):
        return io.BytesIO(recording)
    if isinstance(recording, (str, os.PathLike)):
        if str(recording) == "-":
            return cast("BinaryIO", sys.stdin.buffer)
        return stack.enter_context(_open_file(Path(recording)))
    if not callable(getattr(recording, "read", None)):
        name = type(recording).__name__
        raise InputError(f"{name} is no recording; give a path, bytes, a binary stream or an array")
    return cast("BinaryIO", recording)


def _open_file(path: Path) -> BinaryIO:
    try:
        if not path.exists():
            raise InputError("no such file")
        if not path.is_file():
            raise InputError("no plain file; pipe it into standard input and read -")
        if (size := path.stat().st_size) > LARGEST_FILE:
            raise InputError(f"{size} bytes, at most {LARGEST_FILE} are read, cut it")
        return path.open("rb")
    except ValueError as error:  # a path that none can be
        raise InputError(f"{error}") from error


def _open(
    stream: BinaryIO, raw: RawFormat | None, block: float | None, stack: contextlib.ExitStack
) -> Sound:
    if raw is not None:
        frames = _frames(block, raw.rate)
        return Sound(raw.rate, pcm_blocks(stream, raw, size=None, frames=frames))
    start = _Ahead(stream)
    head = start.head
    if head[:4] in wav.HEADS and head[8:12] == b"WAVE":
        try:
            layout, size = wav.read_header(start)
        except wav.ForeignCodecError as error:
            return _open_codec(start.rewound(), error.reason, stack)
        frames = _frames(block, layout.rate)
        return Sound(layout.rate, pcm_blocks(start, layout, size=size, frames=frames))
    kind = libraries.format_of(head)
    if kind is None:
        known = libraries.known_formats()
        begins = f"begins with {head[:12]!r}, no recording that is known ({known})"
        raise InputError(begins if head else "empty, not a byte of a recording")
    return Sound(*libraries.open_foreign(start.rewound(), kind, stack))


def _open_codec(stream: BinaryIO, reason: str, stack: contextlib.ExitStack) -> Sound:
    """A WAVE file whose samples are not plain numbers, where a library is there."""
    try:
        return Sound(*libraries.open_foreign(stream, libraries.WAVE, stack))
    except BackendError:
        raise BackendError(f"{reason} in a WAVE file; install seq2edge[audio]") from None
    except InputError:
        raise InputError(f"{reason} cannot be read, convert it to 16-bit PCM") from None


def _frames(block: float | None, rate: int) -> int:
    return _BLOCK if block is None else max(1, round(block * rate))


class _Ahead(io.RawIOBase, BinaryIO):
    """A stream whose first bytes are known before they are read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._place = 0
        self._again = _at_its_start(stream)
        self.head = b""
        self.head = self.read(libraries.HEAD)
        self._place = 0

    def read(self, size: int = -1) -> bytes:
        """The rest of the first bytes and what comes behind them, short at the end alone."""
        data = self.head[self._place :][: size if size >= 0 else None]
        self._place += len(data)
        while size < 0 or len(data) < size:
            more = self._stream.read(size - len(data) if size >= 0 else 2**20)
            if not more:
                break
            if not isinstance(more, bytes):
                raise InputError("a stream of text, open it as binary")
            data += more
        return data

    def rewound(self) -> BinaryIO:
        """The whole recording as a stream that can seek, kept in memory where it cannot."""
        if self._again:
            self._stream.seek(0)
            return self._stream
        self._place = 0
        data = self.read(LARGEST_STREAM + 1)
        if len(data) > LARGEST_STREAM:
            raise InputError(f"more than {LARGEST_STREAM} bytes of a stream, write it into a file")
        return io.BytesIO(data)


def _at_its_start(stream: BinaryIO) -> bool:
    try:
        return stream.seekable() and stream.tell() == 0
    except (OSError, AttributeError, ValueError):
        return False


def _of_array(values: NDArray[Any], rate: int) -> Sound:
    """Floats as they are; integers by their full scale."""
    check_rate(rate)
    shape, kind = values.shape, values.dtype
    if values.ndim not in (1, 2) or not values.size or shape[1:] > (MOST_CHANNELS,):
        raise InputError(
            f"samples of shape {shape}; give (length,), or (length, channels) of at most "
            f"{MOST_CHANNELS} channels"
        )
    if kind.kind != "f" and kind not in (np.int16, np.int32):
        raise InputError(f"samples of {kind}; give floats, int16 or int32")
    scale = 1.0 if kind.kind == "f" else 2.0 ** (8 * kind.itemsize - 1)
    rows = values.reshape(len(values), -1)

    def blocks() -> Iterator[Samples]:
        for start in range(0, len(rows), _BLOCK):
            yield averaged(rows[start : start + _BLOCK].astype(np.float64) / scale)

    return Sound(rate, blocks())


def _gathered(blocks: Iterator[Samples], rate: int, longest: float, subject: str) -> Samples:
    """All of them in one array, which grows where it lies."""
    most = math.floor(longest * rate)
    samples = np.empty(_BLOCK, np.float32)
    count = 0
    for block in blocks:
        if count + len(block) > most:
            raise InputError(f"{subject}: longer than {longest:g} s, cut it")
        if count + len(block) > len(samples):
            samples.resize(max(count + len(block), len(samples) * 3 // 2), refcheck=False)
        samples[count : count + len(block)] = block
        count += len(block)
    if not count:
        raise InputError(f"{subject}: no samples")
    samples.resize(count, refcheck=False)
    return samples
