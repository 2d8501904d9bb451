"""Recordings that libraries read: compressed sound with libsndfile, anything with ffmpeg's.

Which library and which of its readers is asked is decided by a file's first bytes, never by the
library: ffmpeg would also take texts for lists of other files to open.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from seq2edge.errors import BackendError, InputError, foreign_errors
from seq2edge.runtime.sound.pcm import MOST_CHANNELS, averaged
from seq2edge.runtime.sound.resampling import Samples, check_rate

_FRAMES = 2**16  # that libsndfile is asked for at a time
_GAP = 0.1  # seconds without sound in a video that become silence
_CHANNELS = 8  # of a video: more lie elsewhere in the library's frames
_SCALES = {"uint8": 2.0**7, "int16": 2.0**15, "int32": 2.0**31, "float32": 1.0, "float64": 1.0}


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of recording, with ffmpeg's name of its reader, and whether libsndfile has one."""

    name: str
    demuxer: str
    in_soundfile: bool = False


WAVE = Format("WAVE", "wav", in_soundfile=True)
_MP3 = Format("MP3", "mp3", in_soundfile=True)
_BEGINNINGS = [
    (0, b"fLaC", Format("FLAC", "flac", in_soundfile=True)),
    (0, b"OggS", Format("Ogg", "ogg", in_soundfile=True)),
    (0, b"ID3", _MP3),
    (0, b"FORM", Format("AIFF", "aiff", in_soundfile=True)),
    (0, b".snd", Format("AU", "au", in_soundfile=True)),
    (0, b"caff", Format("CAF", "caf", in_soundfile=True)),
    (0, b"riff\x2e\x91\xcf\x11", Format("Wave64", "w64", in_soundfile=True)),
    (4, b"ftyp", Format("MP4", "mov")),
    (0, b"\x1aE\xdf\xa3", Format("Matroska or WebM", "matroska")),
    (8, b"AVI ", Format("AVI", "avi")),
    (0, b"FLV\x01", Format("Flash video", "flv")),
    (0, b"0&\xb2u\x8ef\xcf\x11", Format("Windows Media", "asf")),
    (0, b"#!AMR", Format("AMR", "amr")),
    (0, b"wvpk", Format("WavPack", "wv")),
    (0, b"\0\0\1\xba", Format("MPEG program stream", "mpeg")),
    (188, b"G", Format("MPEG transport stream", "mpegts")),
]
HEAD = 189  # bytes that tell


def format_of(head: bytes) -> Format | None:
    """The kind of recording that begins so; None where it is none that is known."""
    for place, magic, kind in _BEGINNINGS:
        if head[place : place + len(magic)] == magic and (place != 188 or head[:1] == b"G"):
            return kind
    if len(head) > 3 and head[0] == 0xFF:
        if head[1] & 0xF6 == 0xF0:
            return Format("AAC", "aac")
        if head[1] & 0xE6 in (0xE2, 0xE4, 0xE6) and head[2] >> 4 != 15 and head[2] & 12 != 12:
            return _MP3
    return None


def known_formats() -> str:
    """Their names, for messages."""
    names = dict.fromkeys(["WAVE", "FLAC", "Ogg", "MP3", "AAC"])
    return ", ".join(dict.fromkeys([*names, *(kind.name for _, _, kind in _BEGINNINGS)]))


def open_foreign(
    stream: BinaryIO, kind: Format, stack: contextlib.ExitStack
) -> tuple[int, Iterator[Samples]]:
    """Sampling rate and blocks of a recording in a stream that can seek, channels averaged.

    Raises InputError for damaged ones and BackendError, with the extra to install, where no library
    for it is here. What is opened is closed with the stack.
    """
    soundfile = _import_soundfile() if kind.in_soundfile else None
    av = _import_av()
    if soundfile is None and av is None:
        extra = "audio" if kind.in_soundfile else "media"
        raise BackendError(f"{kind.name} needs a library; install seq2edge[{extra}]")
    if soundfile is not None:
        try:
            return _open_soundfile(soundfile, stream, kind, stack)
        except InputError:
            if av is None:
                raise
            stream.seek(0)
    return _open_av(av, stream, kind, stack)


def _import_soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError):  # OSError: it is there, and its library is not
        return None
    return soundfile


def _import_av() -> Any:
    try:
        import av
    except (ImportError, OSError):
        return None
    return av


def _open_soundfile(
    soundfile: Any, stream: BinaryIO, kind: Format, stack: contextlib.ExitStack
) -> tuple[int, Iterator[Samples]]:
    quiet = kind is _MP3  # mpg123 writes on the terminal, whatever it is told
    with foreign_errors(InputError, f"{kind.name} cannot be read"), _quiet(on=quiet):
        file = stack.enter_context(soundfile.SoundFile(stream))
    check_rate(file.samplerate)
    if not 1 <= file.channels <= MOST_CHANNELS:
        raise InputError(f"{file.channels} channels, 1 to {MOST_CHANNELS} are read")
    return file.samplerate, _soundfile_blocks(file, kind, quiet=quiet)


def _soundfile_blocks(file: Any, kind: Format, *, quiet: bool) -> Iterator[Samples]:
    count = 0
    while True:
        with foreign_errors(InputError, f"{kind.name} is damaged or cut short"), _quiet(on=quiet):
            block = file.read(_FRAMES, dtype="float32", always_2d=True)
        if not len(block):
            break
        count += len(block)
        yield averaged(block.astype(np.float64))
    # Of an MP3 file the count may be a guess; of other formats it is too large in streams.
    if quiet and count < 0.95 * file.frames - file.samplerate:
        raise InputError(f"{count} samples of {file.frames}, the file is damaged or cut short")


_STDERR = threading.Lock()


@contextlib.contextmanager
def _quiet(*, on: bool) -> Iterator[None]:
    """Where `on`, what C code writes to the process's standard error is dropped."""
    if not on:
        yield
        return
    with _STDERR, contextlib.ExitStack() as stack:
        try:
            sys.stderr.flush()
            kept = os.dup(2)
        except (OSError, AttributeError):  # there is none
            pass
        else:
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, 2)
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 2)
            os.close(nothing)
        yield


def _open_av(
    av: Any, stream: BinaryIO, kind: Format, stack: contextlib.ExitStack
) -> tuple[int, Iterator[Samples]]:
    with foreign_errors(InputError, f"{kind.name} cannot be read"):
        container = stack.enter_context(
            av.open(stream, format=kind.demuxer, metadata_errors="ignore")
        )
        if not container.streams.audio:
            raise InputError(f"{kind.name} without sound")
        track = container.streams.audio[0]
        frames = container.decode(track)
        first = next(frames, None)
    if first is None:
        raise InputError("no samples")
    check_rate(first.sample_rate)
    return first.sample_rate, _av_blocks(container, track, first, frames, kind)


def _av_blocks(
    container: Any, track: Any, first: Any, frames: Iterator[Any], kind: Format
) -> Iterator[Samples]:
    """The frames' samples; silence where a video has none, so that times are those of the video."""
    rate, count, frame = first.sample_rate, 0, first
    begin = (container.start_time or 0) / 1e6  # the library counts microseconds
    while frame is not None:
        with foreign_errors(InputError, f"{kind.name} is damaged or cut short"):
            if frame.sample_rate != rate:
                raise InputError(f"its sampling rate changes, {rate} Hz to {frame.sample_rate} Hz")
            # What a damaged stream says of its channels is not what the library has put in memory.
            if frame.layout.nb_channels != first.layout.nb_channels:
                raise InputError("the number of its channels changes")
            if frame.layout.nb_channels > _CHANNELS:
                raise InputError(
                    f"{frame.layout.nb_channels} channels, {_CHANNELS} at most are read"
                )
            missing = 0 if frame.time is None else round((frame.time - begin) * rate) - count
            samples = _mono(frame)
        if missing > _GAP * rate:
            count += missing
            yield from _silence(missing)
        count += len(samples)
        yield samples
        with foreign_errors(InputError, f"{kind.name} is damaged or cut short"):
            frame = next(frames, None)
    if kind.demuxer in ("mov", "flac") and track.duration:
        seconds = float(track.duration * track.time_base)
        if count < (0.95 * seconds - 1.0) * rate:
            raise InputError(f"{count / rate:.1f} s of {seconds:.1f} s, the file is cut short")


def _silence(length: int) -> Iterator[Samples]:
    """So many samples; the caller stops where they are more than are read."""
    for start in range(0, length, _FRAMES):
        yield np.zeros(min(_FRAMES, length - start), np.float32)


def _mono(frame: Any) -> Samples:
    values = frame.to_ndarray()
    channels = frame.layout.nb_channels
    values = values.T if frame.format.is_planar else values.reshape(-1, channels)
    scale = _SCALES[values.dtype.name]
    wide = values / scale - (1.0 if values.dtype == np.uint8 else 0.0)
    return averaged(np.asarray(wide, np.float64))
