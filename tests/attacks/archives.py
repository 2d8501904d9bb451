"""Packed bundles that are none, or hold what no bundle holds."""

from __future__ import annotations

import io
import json
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from case import Case, rewritten

ARCHIVE = "bart.s2e"
BLOCK = 512
Members = list[tuple[tarfile.TarInfo, bytes]]
UNPACK = (("unpack", ARCHIVE, "out"),)


def cases() -> Iterator[Case]:
    """All of this file."""
    yield from _bytes()
    yield from _members()
    yield from _headers()
    yield from _manifests()


def _case(name: str, change: Callable[[bytes], bytes], **more: Any) -> Case:
    return Case(
        name=name, start=ARCHIVE, change=rewritten(ARCHIVE, change), commands=UNPACK, **more
    )


def _packed(
    name: str, change: Callable[[Members], object], layout: int = tarfile.GNU_FORMAT, **more: Any
) -> Case:
    """Members changed and packed again; where `change` returns a list, that is packed."""

    def repack(data: bytes) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            members = [(m, archive.extractfile(m).read()) for m in archive.getmembers()]
        changed = change(members)
        return _pack(changed if isinstance(changed, list) else members, layout)

    return _case(name, repack, **more)


def _pack(members: Members, layout: int = tarfile.GNU_FORMAT) -> bytes:
    parts = []
    for member, data in members:
        parts.append(member.tobuf(layout, "utf-8", "surrogateescape"))
        parts.append(data + bytes(-len(data) % BLOCK))
    return b"".join([*parts, bytes(2 * BLOCK)])


def _bytes() -> Iterator[Case]:
    yield _case("empty", lambda _: b"")
    yield _case("zeros", lambda data: bytes(len(data)))
    yield _case("noise", lambda data: random.Random(1).randbytes(len(data)))
    yield _case("a block of zeros before it", lambda data: bytes(BLOCK) + data)
    yield _case("text behind it", lambda data: data + b"more")
    yield _case("zeros behind it", lambda data: data + bytes(BLOCK))
    yield _case("another archive behind it", lambda data: data + data)
    for size in (1, 511, 512, 513, 1024, 5000, 14_000, 100_000):
        yield _case(f"cut after {size} bytes", lambda data, size=size: data[:size])
    yield _case("without its end mark", lambda data: data[: -2 * BLOCK])
    yield _case("half an end mark", lambda data: data[:-BLOCK])
    for kind, pack in {"gz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}.items():

        def compressed(data: bytes, pack: str = pack) -> bytes:
            sink = io.BytesIO()
            with tarfile.open(fileobj=sink, mode=pack) as archive:
                archive.addfile(tarfile.TarInfo("manifest.json"), io.BytesIO(b""))
            return sink.getvalue()

        yield _case(f"compressed as {kind}", compressed)

    def zipped(data: bytes) -> bytes:
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("manifest.json", bytes(10**8))
        return sink.getvalue()

    yield _case("a zip bomb", zipped)
    for seed in range(12):

        def flipped(data: bytes, seed: int = seed) -> bytes:
            chosen = random.Random(seed)
            changed = bytearray(data)
            changed[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
            return bytes(changed)

        yield _case(f"a bit flipped at random {seed}", flipped, outcome="either")


def _member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    for key, value in fields.items():
        setattr(member, key, value)
    return member


def _added(at: int, *added: tuple[tarfile.TarInfo, bytes]) -> Callable[[Members], object]:
    def add(members: Members) -> None:
        members[at:at] = added

    return add


KINDS = {
    "a link": (tarfile.SYMTYPE, {"linkname": "../outside/secret.txt"}),
    "an absolute link": (tarfile.SYMTYPE, {"linkname": "/etc/passwd"}),
    "a hard link": (tarfile.LNKTYPE, {"linkname": "../outside/secret.txt"}),
    "a hard link to a member": (tarfile.LNKTYPE, {"linkname": "manifest.json"}),
    "a folder": (tarfile.DIRTYPE, {}),
    "a pipe": (tarfile.FIFOTYPE, {}),
    "a character device": (tarfile.CHRTYPE, {"devmajor": 1, "devminor": 5}),
    "a block device": (tarfile.BLKTYPE, {"devmajor": 8, "devminor": 0}),
    "a sparse file": (tarfile.GNUTYPE_SPARSE, {}),
    "a contiguous file": (tarfile.CONTTYPE, {}),
    "an old file": (tarfile.AREGTYPE, {}),
    "a long name": (tarfile.GNUTYPE_LONGNAME, {}),
    "a long link": (tarfile.GNUTYPE_LONGLINK, {}),
    "an extended header": (tarfile.XHDTYPE, {}),
    "a global header": (tarfile.XGLTYPE, {}),
    "an unknown kind": (b"Z", {}),
}
NAMES = (
    "../outside/written",
    "/tmp/attack-written",
    "a/../../outside/written",
    "..",
    ".",
    "",
    "weights.data/inner",
    "./weights.data",
    "weights.data/",
    "WEIGHTS.DATA",
    "C:\\written",
    "..\\written",
    "\x1b[2J",
    "a\nb",
    "\udcff\udcfe",
    "x" * 99,
    "~/written",
    "manifest.json/a",
    ".seq2edge-000000000000.partial",
    "NUL",
)


def _members() -> Iterator[Case]:
    for what, (kind, fields) in KINDS.items():
        yield _packed(f"{what} first", _added(0, (_member("manifest.json", kind, **fields), b"")))
        yield _packed(f"{what} in the middle", _added(2, (_member("extra", kind, **fields), b"")))

        def replaced(members: Members, kind: bytes = kind, fields: Any = fields) -> None:
            name = members[1][0].name
            members[1] = (_member(name, kind, **fields), b"")

        yield _packed(f"{what} in the place of a file", replaced)
    for name in NAMES:
        yield _packed(f"a member called {name[:30]!r}", _added(2, (_member(name), b"")))

        def renamed(members: Members, name: str = name) -> None:
            members[1][0].name = name

        yield _packed(f"a file renamed {name[:30]!r}", renamed)
    yield _packed("a member twice", lambda m: m.append(m[-1]))
    yield _packed("the manifest twice", lambda m: m.append(m[0]))
    yield _packed("the manifest last", lambda m: m.append(m.pop(0)))
    yield _packed("no manifest", lambda m: m.pop(0))
    yield _packed("the manifest alone", lambda m: m[:1])
    yield _packed("a member missing", lambda m: m.pop())
    yield _packed("members in another order", lambda m: [m[0], *m[:0:-1]], outcome="harmless")
    yield _packed(
        "10,000 empty members",
        lambda m: [m[0], *((_member(f"e{i}"), b"") for i in range(10_000))],
    )
    yield _packed(
        "owners and modes that are dangerous",
        lambda m: [
            (_with(member, mode=0o6777, uid=0, gid=0, mtime=2**31), data) for member, data in m
        ],
        outcome="harmless",
    )
    yield _packed(
        "PAX headers",
        lambda m: [
            (_with(member, pax_headers={"path": "../outside/written"}), data) for member, data in m
        ],
        tarfile.PAX_FORMAT,
    )


def _with(member: tarfile.TarInfo, **fields: Any) -> tarfile.TarInfo:
    for key, value in fields.items():
        setattr(member, key, value)
    return member


def _summed(header: bytes) -> bytes:
    """With the checksum that fits."""
    plain = header[:148] + b" " * 8 + header[156:]
    return plain[:148] + b"%06o\0 " % sum(plain) + plain[156:]


def _headers() -> Iterator[Case]:
    for what, size in {
        "negative": b"\xff" * 12,
        "of 2^95": b"\x80" + b"\x7f" + b"\xff" * 10,
        "of 8 GB": b"77777777777\0",
        "that is text": b"hello world\0",
        "that is empty": bytes(12),
        "one too small": b"00000000001\0",
        "of spaces": b" " * 12,
    }.items():
        for place in ("manifest", "file"):

            def resized(data: bytes, size: bytes = size, place: str = place) -> bytes:
                start = 0 if place == "manifest" else _second(data)
                header = data[start : start + BLOCK]
                return (
                    data[:start]
                    + _summed(header[:124] + size + header[136:])
                    + data[start + BLOCK :]
                )

            yield _case(f"a {place}'s size {what}", resized)
    for what, change in {
        "no checksum": lambda h: h[:148] + bytes(8) + h[156:],
        "a wrong checksum": lambda h: h[:148] + b"000000\0 " + h[156:],
        "no magic": lambda h: _summed(h[:257] + bytes(8) + h[265:]),
        "a prefix": lambda h: _summed(h[:345] + b"../outside" + h[355:]),
        "a name without end": lambda h: _summed(b"a" * 100 + h[100:]),
        "a name in Latin-1": lambda h: _summed(b"\xe9" + h[1:]),
    }.items():

        def damaged(data: bytes, change: Callable[[bytes], bytes] = change) -> bytes:
            start = _second(data)
            return data[:start] + change(data[start : start + BLOCK]) + data[start + BLOCK :]

        outcome = "either" if what == "no magic" else "refused"
        yield _case(f"a header with {what}", damaged, outcome=outcome)


def _second(data: bytes) -> int:
    """Where the second header begins."""
    size = int(data[124:135], 8)
    return BLOCK + size + -size % BLOCK


def _manifests() -> Iterator[Case]:
    """Members as they are, behind another manifest."""
    for what, change in {
        "a file of 2^62 bytes": lambda v: v["files"]["weights.data"].update(size=2**62),
        "a file one byte longer": lambda v: v["files"]["weights.data"].update(size=192513),
        "another hash": lambda v: v["files"]["weights.data"].update(sha256="0" * 64),
        "a file that is not there": lambda v: v["files"].update(
            {
                "more": {
                    "size": 0,
                    "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                }
            }
        ),
        "a file less": lambda v: v["files"].pop("weights.data"),
        "no files": lambda v: v["files"].clear(),
        "a name of the parent": lambda v: v["files"].update(
            {"../outside/written": v["files"].pop("weights.data")}
        ),
        "a lone surrogate": lambda v: v.update(family="\ud800"),
        "200 files of 10^18": lambda v: v["files"].update(
            {f"f{i}": {"size": 10**18, "sha256": "0" * 64} for i in range(200)}
        ),
        "format 5": lambda v: v.update(format=5),
    }.items():

        def edit(members: Members, change: Any = change) -> None:
            values = json.loads(members[0][1])
            change(values)
            members[0] = _with_data(members[0][0], json.dumps(values).encode())

        yield _packed(f"a manifest with {what}", edit)
    for what, raw in {
        "empty": b"",
        "deep": b"[" * 100_000,
        "a list": b"[]",
        "15 MB": b"[" + b"1," * (7 * 2**20),
        "17 MB": b" " * (17 * 2**20),
        "UTF-16": "{}".encode("utf-16"),
        "noise": bytes(range(256)),
    }.items():

        def put(members: Members, raw: bytes = raw) -> None:
            members[0] = _with_data(members[0][0], raw)

        yield _packed(f"a manifest that is {what}", put)


def _with_data(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member.size = len(data)
    return member, data
