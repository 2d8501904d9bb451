"""A bundle as one file, `.s2e`: an uncompressed tar archive with the manifest first.

Tar and not zip: it is read in one pass with the manifest before everything it describes, and right
behind it its signature, where it has one; its members cannot be compressed (so nothing can expand),
and its end is marked, so that a truncated file shows. Only plain headers are understood here, one
512-byte block each: links, devices, sparse files, long-name and extended headers are refused.
Names, sizes and hashes are the manifest's; times, owners and modes are constant, so equal bundles
give equal bytes.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from seq2edge.bundle.folder import (
    Bundle,
    BundleWriter,
    check_record,
    manifest_bytes,
    recorded_files,
)
from seq2edge.bundle.manifest import LARGEST_MANIFEST, MANIFEST, SIGNATURE, Manifest
from seq2edge.bundle.origin import KeyFile, check_size, origin_of, read_signature, sign
from seq2edge.errors import BundleError
from seq2edge.files.records import RecordError
from seq2edge.files.storage import (
    FileRecord,
    copy_hashed,
    file_errors,
    real_path,
    replacing,
    require_regular,
)

BLOCK = tarfile.BLOCKSIZE
LIMIT = 64 * 2**30  # bytes that `unpack` writes unless told otherwise
_END = bytes(2 * BLOCK)


def pack(
    bundle: str | os.PathLike[str],
    file: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    key: KeyFile | None = None,
) -> Path:
    """Write the bundle folder `bundle` to the one file `file`, checking every hash on the way.

    key: a file with the private key that signs it; without, a signature that the bundle has is
    kept. The file appears whole or not at all. Raises BundleError, and OptionError for a file that
    holds no such key.
    """
    opened = Bundle.open(bundle)
    data = manifest_bytes(opened.path / MANIFEST)
    if Manifest.from_bytes(data) != opened.manifest:
        raise BundleError(f"{opened.path / MANIFEST}: was changed while it was read, try again")
    signature = read_signature(opened.path) if key is None else sign(data, key)
    target = real_path(file)
    _check_target(target, opened, overwrite=overwrite)
    with file_errors(target), replacing(target) as partial, partial.open("xb") as sink:
        _write_small(sink, MANIFEST, data)
        if signature is not None:
            _write_small(sink, SIGNATURE, signature)
        _write_members(opened, sink)
    return Path(file)


def _check_target(target: Path, bundle: Bundle, *, overwrite: bool) -> None:
    if not target.parent.is_dir():
        raise BundleError(f"{target}: folder {target.parent} does not exist, make it first")
    if target.is_relative_to(real_path(bundle.path)):
        raise BundleError(f"{target}: lies inside the bundle, choose another place")
    if target.is_dir():
        raise BundleError(f"{target}: is a folder, name a file")
    if target.exists() and not overwrite:
        raise BundleError(f"{target}: exists, choose another place or overwrite it")
    if target.exists() and not _is_packed(target):
        raise BundleError(f"{target}: not a packed bundle, so it is not overwritten")


def _is_packed(path: Path) -> bool:
    """Whether a file begins with a manifest, of any format, as `pack` writes it."""
    try:
        with file_errors(path), _open_regular(path) as source:
            return recorded_files(_read_manifest(source, path)) is not None
    except (BundleError, RecordError):
        return False


def _write_small(sink: BinaryIO, name: str, data: bytes) -> None:
    sink.write(_header(name, len(data)) + data + _padding(len(data)))


def _write_members(bundle: Bundle, sink: BinaryIO) -> None:
    for name, record in sorted(bundle.manifest.files.items()):
        sink.write(_header(name, record.size))
        written = copy_hashed_file(bundle.path / name, sink)
        check_record(bundle.path / name, record, written)
        sink.write(_padding(written.size))
    sink.write(_END)


def copy_hashed_file(path: Path, sink: BinaryIO) -> FileRecord:
    """Append a whole file to `sink`."""
    with path.open("rb") as source:
        return copy_hashed(source, sink, size=None)


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT, "ascii", "strict")


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


def unpack(
    file: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    limit_bytes: int = LIMIT,
    require_key: KeyFile | Sequence[KeyFile] | None = None,
    sha256: str | None = None,
) -> Bundle:
    """Restore the folder that `pack` made `file` from; it appears whole or not at all.

    require_key, sha256: as of `Bundle.open`, checked before anything is written. Every hash is
    checked, with and without. Raises BundleError where the origin is another, when a member is not
    a plain file that the manifest lists with this size and hash, when the file is truncated, or
    when it holds more than `limit_bytes`.
    """
    path = Path(file)
    origin = origin_of(require_key, sha256)
    with file_errors(path), _open_regular(path) as source:
        data = _read_manifest(source, path)
        signature = _read_signature(source, path)
        if origin is not None:
            origin.check(data, signature, str(path))
        manifest = Manifest.from_bytes(data, f"{path}: {MANIFEST}")
        _check_total(path, manifest, limit_bytes)
        with BundleWriter(destination, overwrite=overwrite) as writer:
            _extract_members(source, path, manifest, writer)
            return writer.seal(data, signature)


def _open_regular(path: Path) -> BinaryIO:
    """A file to read; a pipe or a device may never end."""
    require_regular(path)
    return path.open("rb")


def _read_manifest(source: BinaryIO, path: Path) -> bytes:
    member = _next_member(source, path)
    if member is None or member.name != MANIFEST or member.size > LARGEST_MANIFEST:
        raise BundleError(f"{path}: does not begin with {MANIFEST}, so it is no packed bundle")
    return _read_small(source, path, member)


def _read_signature(source: BinaryIO, path: Path) -> bytes | None:
    """The member behind the manifest, where that is its signature; else nothing is read."""
    place = source.tell()
    member = _next_member(source, path)
    if member is None or member.name != SIGNATURE:
        source.seek(place)
        return None
    check_size(member.size, f"{path}: {SIGNATURE!r}")
    return _read_small(source, path, member)


def _check_total(path: Path, manifest: Manifest, limit_bytes: int) -> None:
    total = sum(record.size for record in manifest.files.values())
    if total > limit_bytes:
        raise BundleError(f"{path}: holds {total} bytes, the limit is {limit_bytes}")
    if total > path.stat().st_size:
        raise BundleError(f"{path}: truncated, {total} bytes are listed in its {MANIFEST}")


def _extract_members(
    source: BinaryIO, path: Path, manifest: Manifest, writer: BundleWriter
) -> None:
    """Write every member's data and check it against the manifest's record."""
    missing = dict(manifest.files)
    for member in _members(source, path):
        shown = f"{path}: {member.name!r}"
        record = missing.pop(member.name, None)
        if record is None:
            known = member.name in (MANIFEST, SIGNATURE, *manifest.files)
            fact = "a duplicate, or not in its place" if known else f"not in its {MANIFEST}"
            raise BundleError(f"{shown}: {fact}")
        if member.size != record.size:
            raise BundleError(f"{shown}: {member.size} bytes, {MANIFEST} says {record.size}")
        with writer.path(member.name).open("xb") as sink:
            actual = copy_hashed(source, sink, size=record.size)
        if actual.size < record.size:
            raise BundleError(f"{shown}: truncated after {actual.size} of {record.size} bytes")
        check_record(path / member.name, record, actual)
        _skip_padding(source, path, member)
    if missing:
        raise BundleError(f"{path}: {min(missing)!r} is listed in its {MANIFEST} but not there")


def _members(source: BinaryIO, path: Path) -> Iterator[tarfile.TarInfo]:
    """Headers up to the end mark; the caller reads each member's data before the next."""
    while member := _next_member(source, path):
        yield member
    if source.read(1):
        raise BundleError(f"{path}: goes on after the end mark, this is no packed bundle")


def _next_member(source: BinaryIO, path: Path) -> tarfile.TarInfo | None:
    """The header of the next member, None at the end mark; anything but a plain file is refused."""
    block = _read_exactly(source, path, BLOCK)
    if not any(block):
        if any(_read_exactly(source, path, BLOCK)):
            raise BundleError(f"{path}: the end mark is damaged")
        return None
    try:
        member = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        if block[155] not in b"\0 ":  # the one byte that the checksum leaves out
            raise tarfile.HeaderError("bad checksum")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{path}: no tar header where one must be ({error}); "
            "a packed bundle is an uncompressed tar archive, this is none or it is damaged"
        ) from error
    if member.type != tarfile.REGTYPE or member.size < 0:
        raise BundleError(
            f"{path}: {member.name!r} is a link, a device or another special member, "
            f"type {member.type!r}; only plain files are unpacked"
        )
    return member


def _read_small(source: BinaryIO, path: Path, member: tarfile.TarInfo) -> bytes:
    data = _read_exactly(source, path, member.size)
    _skip_padding(source, path, member)
    return data


def _skip_padding(source: BinaryIO, path: Path, member: tarfile.TarInfo) -> None:
    if any(_read_exactly(source, path, -member.size % BLOCK)):
        raise BundleError(f"{path}: {member.name!r}: something hides behind it, pack it again")


def _read_exactly(source: BinaryIO, path: Path, size: int) -> bytes:
    data = source.read(size)
    if len(data) < size:
        raise BundleError(f"{path}: truncated, it ends {size - len(data)} bytes too early")
    return data
