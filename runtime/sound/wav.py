"""WAVE files and streams, with numpy alone.

Formats: RIFF/WAVE with PCM of 8, 16, 24 or 32 bits, IEEE floats of 32 or 64 bits, A-law or mu-law
(Microsoft and IBM, "Multimedia Programming Interface and Data Specifications 1.0", 1991;
WAVE_FORMAT_EXTENSIBLE: Microsoft, "Multiple channel audio data and WAVE files", 2001), its
big-endian form RIFX and the 64-bit one RF64 (EBU Tech 3306, 2009).
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from typing import BinaryIO

from seq2edge.errors import InputError
from seq2edge.runtime.sound.pcm import MOST_CHANNELS, RawFormat
from seq2edge.runtime.sound.resampling import check_rate

HEADS = (b"RIFF", b"RIFX", b"RF64", b"BW64")
_MOST_CHUNKS = 1000
_LONGEST_CHUNK = 2**16  # bytes, of those that are looked into
_PCM, _FLOAT, _ALAW, _MULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_CODECS = {2: "ADPCM", 17: "IMA ADPCM", 0x31: "GSM 6.10", 0x50: "MPEG", 0x55: "MP3"}
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")  # after the two bytes of the format


@dataclasses.dataclass(frozen=True)
class ForeignCodecError(Exception):
    """A WAVE file of an encoding that libraries may read."""

    reason: str


def read_header(stream: BinaryIO) -> tuple[RawFormat, int | None]:
    """What a WAVE stream's samples are, and their bytes; None where its writer did not know.

    The stream stands at the first sample then. Raises InputError for damaged headers, and
    ForeignCodecError for encodings that are not read here.
    """
    head = stream.read(12)
    if len(head) < 12 or head[:4] not in HEADS or head[8:] != b"WAVE":
        raise InputError(f"begins with {head!r}, not a WAVE file")
    order = ">" if head[:4] == b"RIFX" else "<"
    (whole,) = struct.unpack(order + "I", head[4:8])
    layout, long_size = None, None
    for name, size in _chunks(stream, order):
        if name == b"ds64":
            (long_size,) = struct.unpack("<Q", _body(stream, name, size, 28)[8:16])
        elif name == b"fmt ":
            layout = _read_format(_body(stream, name, size, 16), order)
        elif name == b"data":
            if layout is None:
                raise InputError("the data chunk comes before the fmt chunk")
            if head[:4] in (b"RF64", b"BW64") and size == 0xFFFFFFFF:
                return layout, long_size
            return layout, None if _unknown(size, whole) else size
        else:
            _skip(stream, size + size % 2)
    raise InputError("no data chunk, the file is cut short or holds no sound")


def _unknown(size: int, whole: int) -> bool:
    """Whether a size is what writers leave that cannot seek back, or were stopped before.

    ffmpeg leaves all ones, sox and arecord about two gigabytes, others nothing at all.
    """
    return size >= 0xFFFFF000 or 0x7FFFF000 <= size <= 0x80000000 or size == whole == 0


def _chunks(stream: BinaryIO, order: str) -> Iterator[tuple[bytes, int]]:
    """Name and declared size of each chunk, whose contents come next in the stream."""
    for _ in range(_MOST_CHUNKS):
        head = stream.read(8)
        if len(head) < 8:
            return
        name, size = struct.unpack(order + "4sI", head)
        yield name, size
    raise InputError(f"more than {_MOST_CHUNKS} chunks before the samples")


def _body(stream: BinaryIO, name: bytes, size: int, least: int) -> bytes:
    """The contents of a short chunk, and its padding read away."""
    title = name.decode("latin-1").strip()
    if not least <= size <= _LONGEST_CHUNK:
        raise InputError(f"a {title} chunk of {size} bytes, at least {least} are needed")
    body = stream.read(size + size % 2)
    if len(body) < size:
        raise InputError(f"the file is cut short in its {title} chunk")
    return body[:size]


def _skip(stream: BinaryIO, size: int) -> None:
    while size > 0 and (data := stream.read(min(size, 2**20))):
        size -= len(data)


def _read_format(body: bytes, order: str) -> RawFormat:
    code, channels, rate, _, align, bits = struct.unpack_from(order + "HHIIHH", body)
    if code == _EXTENSIBLE:
        if len(body) < 40 or body[26:40] != _GUID_TAIL:
            raise ForeignCodecError("an extensible format of unknown kind")
        (code,) = struct.unpack_from(order + "H", body, 24)
    encoding = _encoding(code, bits, order)
    if not 1 <= channels <= MOST_CHANNELS or align != channels * bits // 8:
        raise InputError(f"{channels} channels in frames of {align} bytes at {bits} bits")
    check_rate(rate)
    return RawFormat(encoding=encoding, rate=rate, channels=channels)


def _encoding(code: int, bits: int, order: str) -> str:
    end = "le" if order == "<" else "be"
    if code == _PCM and bits in (8, 16, 24, 32):
        return "u8" if bits == 8 else f"s{bits}{end}"
    if code == _FLOAT and bits in (32, 64):
        return f"f{bits}{end}"
    if code in (_ALAW, _MULAW) and bits == 8:
        return "alaw" if code == _ALAW else "mulaw"
    plain = {_PCM: "PCM", _FLOAT: "float", _ALAW: "A-law", _MULAW: "mu-law"}
    if code in plain:
        raise InputError(f"{plain[code]} of {bits} bits cannot be read, convert it to 16-bit PCM")
    raise ForeignCodecError(_CODECS.get(code, f"format {code}"))
