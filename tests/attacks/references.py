"""Recorded answers that are no arrays, too large, or of something else."""

from __future__ import annotations

import io
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from case import Case, rewritten, sealed
from numpy.lib import format as npy

REFERENCE = "reference.npz"
Arrays = dict[str, Any]


class Trap:
    """What a pickle runs when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch ../ran",)


def cases() -> Iterator[Case]:
    """All of this file."""
    yield from _files()
    yield from _arrays()
    for name in ("bart", "bert"):
        yield from _contents(name)


def _raw(name: str, change: Callable[[bytes], bytes], start: str = "bart", **more: Any) -> Case:
    return Case(name=name, start=start, change=sealed(rewritten(REFERENCE, change)), **more)


def _zipped(members: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return sink.getvalue()


def _unzipped(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _first(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Changes the first member."""

    def edit(data: bytes) -> bytes:
        members = _unzipped(data)
        name = next(iter(members))
        members[name] = change(members[name])
        return _zipped(members)

    return edit


def _header(text: str, data: bytes = b"") -> bytes:
    """A member with that header."""
    line = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + data


def _files() -> Iterator[Case]:
    yield _raw("noise", lambda data: random.Random(5).randbytes(len(data)))
    yield _raw("a zip of nothing", lambda _: _zipped({}))
    yield _raw("a zip of text", lambda _: _zipped({"a.npy": b"text"}))
    yield _raw("a zip bomb", lambda _: _zipped({"a.npy": bytes(2 * 10**8)}))
    yield _raw("many bombs", lambda _: _zipped({f"a{i}.npy": bytes(10**7) for i in range(150)}))
    yield _raw(
        "a bomb that is an array of 900 MB",
        lambda _: _zipped(
            {
                "a.npy": _header(
                    "{'descr': '<f4', 'fortran_order': False, 'shape': (225000000,), }",
                    bytes(9 * 10**8),
                )
            }
        ),
    )
    yield _raw("bzip2", lambda data: _zipped(_unzipped(data), zipfile.ZIP_BZIP2))
    yield _raw("LZMA", lambda data: _zipped(_unzipped(data), zipfile.ZIP_LZMA))
    yield _raw(
        "names outside",
        lambda data: _zipped(
            {f"../outside/{name}": value for name, value in _unzipped(data).items()}
        ),
    )
    yield _raw(
        "a name of control characters",
        lambda data: _zipped(_unzipped(data) | {"\x1b[2J\n.npy": b""}),
    )
    yield _raw(
        "names that are no text",
        lambda data: data.replace(b"prefill", b"\xff\xfefill"),
        outcome="either",
    )
    yield _raw("100,000 members", lambda _: _zipped({f"a{i}.npy": b"" for i in range(100_000)}))
    yield _raw("a pickle", lambda _: pickle.dumps(Trap()))
    yield _raw(
        "a script before it", lambda data: b"#!/bin/sh\ntouch ../ran\n" + data, outcome="either"
    )
    yield _raw("encrypted", lambda data: _flagged(data, 1))
    yield _raw("sizes that lie", lambda data: _sized(data, 1))
    yield _raw("sizes of 4 GB", lambda data: _sized(data, 0xFFFFFFFE))
    yield _raw(
        "a comment of 60 kB",
        lambda data: data[:-2] + struct.pack("<H", 60_000) + b"x" * 60_000,
        outcome="harmless",
    )
    for part in (1, 2, 3):
        yield _raw(f"cut to {part} quarters", lambda data, p=part: data[: len(data) * p // 4])
    for seed in range(10):

        def flipped(data: bytes, seed: int = seed) -> bytes:
            chosen = random.Random(seed)
            changed = bytearray(data)
            changed[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
            return bytes(changed)

        yield _raw(f"a bit flipped at random {seed}", flipped, outcome="either")


def _flagged(data: bytes, flag: int) -> bytes:
    place = data.index(b"PK\x01\x02") + 8
    return data[:place] + struct.pack("<H", flag) + data[place + 2 :]


def _sized(data: bytes, size: int) -> bytes:
    place = data.index(b"PK\x01\x02") + 24
    return data[:place] + struct.pack("<I", size) + data[place + 4 :]


def _arrays() -> Iterator[Case]:
    objects = io.BytesIO()
    npy.write_array(objects, np.array([Trap()], dtype=object), allow_pickle=True)
    yield _raw("pickled objects", _first(lambda _: objects.getvalue()))
    for what, header in {
        "2^62 values": "{'descr': '<f4', 'fortran_order': False, 'shape': (9" + "0" * 17 + ",), }",
        "a negative axis": "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
        "no dtype": "{'fortran_order': False, 'shape': (1,), }",
        "a call": "__import__('os').system('touch ../ran')",
        "a record": "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }",
        "text values": "{'descr': '<U4', 'fortran_order': False, 'shape': (1,), }",
        "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        "a float of 99 bytes": "{'descr': '<f99', 'fortran_order': False, 'shape': (1,), }",
        "times": "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (1,), }",
        "an axis of 5000 digits": "{'descr': '<f4', 'fortran_order': False, 'shape': ("
        + "9" * 5000
        + ",), }",
        "40 axes": "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1, " * 40 + "), }",
        "33 axes and no values": "{'descr': '<f4', 'fortran_order': False, 'shape': (0, "
        + "1, " * 32
        + "), }",
        "nesting": "[" * 20_000,
        "big-endian numbers": "{'descr': '>f4', 'fortran_order': False, 'shape': (0,), }",
        "complex numbers": "{'descr': '<c8', 'fortran_order': False, 'shape': (0,), }",
        "no axes": "{'descr': '<f4', 'fortran_order': False, 'shape': (), }",
    }.items():
        yield _raw(f"an array with {what}", _first(lambda _, h=header: _header(h, b"1234")))
    yield _raw("an array of version 3", _first(lambda data: data[:6] + b"\x03\x00" + data[8:]))
    yield _raw("a header of 64 kB", _first(lambda data: data[:8] + b"\xff\xff" + data[10:]))


def _changed(change: Callable[[Arrays], object]) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        arrays = dict(np.load(io.BytesIO(data)))
        changed = change(arrays)
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in (arrays if changed is None else changed).items():
                with archive.open(f"{name}.npy", "w") as member:
                    npy.write_array(member, np.asanyarray(array), allow_pickle=False)
        return sink.getvalue()

    return edit


def _each(change: Callable[[Any], Any]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {name: change(array) for name, array in arrays.items()}


def _integers(change: Callable[[Any], Any]) -> Callable[[Arrays], Arrays]:
    return _each(lambda a: change(a) if a.dtype.kind in "iu" else a)


def _contents(start: str) -> Iterator[Case]:
    """Whole files that record something else than this model's answers."""
    for what, change in {
        "nothing": lambda _: {},
        "one array less": lambda a: dict(list(a.items())[1:]),
        "the last array less": lambda a: dict(list(a.items())[:-1]),
        "one array alone": lambda a: dict(list(a.items())[:1]),
        "the names changed": lambda a: {f"x_{name}": value for name, value in a.items()},
        "zeros": _each(np.zeros_like),
        "not a number": _each(lambda a: np.full_like(a, np.nan) if a.dtype.kind == "f" else a),
        "infinities": _each(lambda a: np.full_like(a, np.inf) if a.dtype.kind == "f" else a),
        "nothing in each array": _each(lambda a: a.reshape(-1)[:0]),
        "an axis more": _each(lambda a: a[None]),
        "flat arrays": _each(lambda a: a.reshape(-1)),
        "halves": _each(lambda a: a[: len(a) // 2] if a.ndim else a),
        "ids beyond the vocabulary": _integers(lambda a: a + 10**6),
        "ids below zero": _integers(lambda a: -a - 5),
        "ids of 2^62": _integers(lambda a: np.full_like(a, min(2**62, np.iinfo(a.dtype).max))),
        "ids as floats": _integers(lambda a: a.astype(np.float64)),
        "floats as bytes": _each(lambda a: a.astype(np.int8) if a.dtype.kind == "f" else a),
        "booleans": _each(lambda a: a.astype(bool)),
        "transposed arrays": _each(lambda a: a.T),
        "long arrays": _each(lambda a: np.resize(a, (1000, *a.shape[1:])) if a.ndim else a),
    }.items():
        # The last array may be an error that was measured, and not an answer.
        either = what in ("halves", "long arrays", "the last array less")
        outcome = "either" if either else "refused"
        yield _raw(f"{start}: a record of {what}", _changed(change), start, outcome=outcome)
