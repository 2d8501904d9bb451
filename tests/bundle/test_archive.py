"""Packing a bundle into one file and back: deterministic, atomic, closed to hostile archives."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limited import limited

from seq2edge.bundle import Bundle
from seq2edge.bundle.archive import BLOCK, LIMIT, pack, unpack
from seq2edge.bundle.manifest import LARGEST_MANIFEST, Manifest
from seq2edge.errors import BundleError

Member = tuple[tarfile.TarInfo, bytes]


@pytest.fixture
def bundle(tmp_path: Path, make_bundle: Callable[..., Bundle]) -> Bundle:
    """A complete bundle."""
    return make_bundle(tmp_path / "model")


@pytest.fixture
def members(bundle: Bundle) -> list[Member]:
    """The members of its packed form, to be changed by tests."""
    names = ["manifest.json", *bundle.manifest.files]
    return [member(name, (bundle.path / name).read_bytes()) for name in names]


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> Member:
    """A tar header and its data."""
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, link
    header.size = len(data)
    return header, data


def archive(path: Path, members: Iterable[Member], end: bytes = bytes(2 * BLOCK)) -> Path:
    """A tar file put together by hand."""
    blocks = [
        header.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % BLOCK)
        for header, data in members
    ]
    path.write_bytes(b"".join(blocks) + end)
    return path


def refused(path: Path, message: str, limit_bytes: int = LIMIT) -> None:
    """Unpacking `path` fails with `message` and leaves no trace."""
    place = path.parent / "place"
    place.mkdir()
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(BundleError, match=message):
        unpack(path, place / "out", limit_bytes=limit_bytes)
    assert sorted(path.parent.rglob("*")) == before


def test_unpacking_gives_the_packed_bundle(bundle: Bundle, tmp_path: Path) -> None:
    """Every file and the manifest come back byte for byte."""
    file = pack(bundle.path, tmp_path / "model.s2e")
    restored = unpack(file, tmp_path / "restored")
    assert restored.manifest == bundle.manifest
    assert Bundle.open(tmp_path / "restored", hashes=True) == restored
    for name in ("manifest.json", *bundle.manifest.files):
        assert (restored.path / name).read_bytes() == (bundle.path / name).read_bytes()


def test_equal_bundles_give_equal_files(bundle: Bundle, tmp_path: Path) -> None:
    """Times, owners and the way a bundle came about leave no trace in its packed form."""
    first = pack(bundle.path, tmp_path / "a.s2e")
    unpack(first, tmp_path / "restored")
    second = pack(tmp_path / "restored", tmp_path / "b.s2e")
    assert first.read_bytes() == second.read_bytes()


def test_a_packed_bundle_is_a_tar_archive(bundle: Bundle, tmp_path: Path) -> None:
    """Common tools can list it, with the manifest first."""
    with tarfile.open(pack(bundle.path, tmp_path / "a.s2e"), "r:") as listing:
        assert listing.getnames() == ["manifest.json", *bundle.manifest.files]


def test_a_plain_tar_of_the_files_unpacks(members: list[Member], tmp_path: Path) -> None:
    """The order after the manifest is free."""
    path = archive(tmp_path / "a.s2e", [members[0], *reversed(members[1:])])
    assert unpack(path, tmp_path / "out").manifest.family == "whisper"


def test_a_damaged_bundle_is_not_packed(bundle: Bundle, tmp_path: Path) -> None:
    """Packing checks every hash and leaves no file when one is wrong."""
    (bundle.path / "encoder.onnx").write_bytes(b"x" * 24)
    with pytest.raises(BundleError, match=r"encoder\.onnx: SHA-256"):
        pack(bundle.path, tmp_path / "model.s2e")
    assert list(tmp_path.iterdir()) == [bundle.path]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("old.s2e", "exists, choose another place or overwrite"),
        ("model/in.s2e", "lies inside the bundle"),
        ("gone/a.s2e", "gone does not exist, make it first"),
        ("folder", "is a folder, name a file"),
    ],
)
def test_packing_to_a_wrong_place_is_refused(
    bundle: Bundle, tmp_path: Path, name: str, message: str
) -> None:
    """Existing files, folders and the bundle itself are not written to."""
    (tmp_path / "old.s2e").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BundleError, match=message):
        pack(bundle.path, tmp_path / name)
    assert (tmp_path / "old.s2e").read_bytes() == b"old"
    assert Bundle.open(bundle.path) == bundle


def test_packing_overwrites_when_told(bundle: Bundle, tmp_path: Path) -> None:
    """An existing packed bundle, of whatever format, is replaced at once."""
    file = pack(bundle.path, tmp_path / "old.s2e")
    file.write_bytes(file.read_bytes().replace(b'"format": 4', b'"format": 9'))
    pack(bundle.path, file, overwrite=True)
    assert unpack(file, tmp_path / "out").manifest == bundle.manifest


@pytest.mark.parametrize("data", [b"", b"old", bytes(2048), b"{}"])
def test_packing_overwrites_nothing_but_packed_bundles(
    bundle: Bundle, tmp_path: Path, data: bytes
) -> None:
    """Another file is somebody's."""
    (tmp_path / "notes").write_bytes(data)
    with pytest.raises(BundleError, match="notes: not a packed bundle, so it is not overwritten"):
        pack(bundle.path, tmp_path / "notes", overwrite=True)
    assert (tmp_path / "notes").read_bytes() == data


def test_a_full_disk_leaves_no_packed_file(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running out of space while packing removes what was written."""

    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("seq2edge.files.storage.sync", full)
    with pytest.raises(BundleError, match="No space left on device, free some space"):
        pack(bundle.path, tmp_path / "model.s2e")
    assert list(tmp_path.iterdir()) == [bundle.path]


def test_a_full_disk_leaves_nothing_unpacked(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running out of space while unpacking removes what was written."""
    file = pack(bundle.path, tmp_path / "model.s2e")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("seq2edge.bundle.archive.copy_hashed", full)
    refused(file, "out: No space left on device, free some space")


def test_unpacking_over_a_bundle_must_be_asked_for(bundle: Bundle, tmp_path: Path) -> None:
    """An existing bundle is kept, or replaced when told."""
    file = pack(bundle.path, tmp_path / "model.s2e")
    with pytest.raises(BundleError, match="model: exists"):
        unpack(file, bundle.path)
    assert unpack(file, bundle.path, overwrite=True) == bundle


def test_files_that_are_no_packed_bundles_are_refused(tmp_path: Path) -> None:
    """Empty files, other formats and missing files are told apart from damaged bundles."""
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("manifest.json", bytes(10**7))
    for i, (data, message) in enumerate(
        [
            (b"", "truncated, it ends 512 bytes too early"),
            (bytes(10240), "does not begin with manifest"),
            (b"text " * 200, "no tar header where one must be"),
            (gzip.compress(bytes(10**7)), "a packed bundle is an uncompressed tar archive"),
            (zipped.getvalue(), "a packed bundle is an uncompressed tar archive"),
        ]
    ):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "a.s2e").write_bytes(data)
        refused(folder / "a.s2e", message)
    with pytest.raises(BundleError, match="gone: No such file"):
        unpack(tmp_path / "gone", tmp_path / "out")
    with pytest.raises(BundleError, match="not a regular file"):
        unpack(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6", b"L", b"K", b"S", b"x", b"g"])
def test_special_members_are_refused(members: list[Member], tmp_path: Path, kind: bytes) -> None:
    """Links, devices, folders, sparse files and extended headers are not unpacked."""
    members[1] = member(members[1][0].name, b"", kind, link="/etc/passwd")
    refused(archive(tmp_path / "a.s2e", members), "is a link, a device or another special member")


def test_a_special_member_cannot_stand_for_the_manifest(tmp_path: Path) -> None:
    """The first member is held to the same rule."""
    path = archive(tmp_path / "a.s2e", [member("manifest.json", b"", b"2", link="/etc/passwd")])
    refused(path, "'manifest.json' is a link")


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "evil", "encoder.onnx/x"])
def test_members_that_the_manifest_does_not_list_are_refused(
    members: list[Member], tmp_path: Path, name: str
) -> None:
    """Only listed names are unpacked, wherever others would lead."""
    refused(archive(tmp_path / "a.s2e", [*members, member(name, b"x")]), "not in its manifest.json")


@pytest.mark.parametrize("name", ["../evil", "/evil", "C:\\evil", "manifest.json"])
def test_hostile_names_in_the_manifest_are_refused(
    members: list[Member], tmp_path: Path, name: str
) -> None:
    """A manifest that lists a hostile name is refused before anything is unpacked."""
    values = json.loads(members[0][1])
    values["files"][name] = values["files"]["encoder.onnx"]
    members[0] = member("manifest.json", json.dumps(values).encode())
    path = archive(tmp_path / "a.s2e", [*members, member(name, b"contents of encoder.onnx")])
    refused(path, r"a\.s2e: manifest\.json: .*(expected a relative file name|is reserved)")


@pytest.mark.parametrize("index", [0, 1, 3])
def test_duplicate_members_are_refused(members: list[Member], tmp_path: Path, index: int) -> None:
    """A second member of a name cannot replace the checked one."""
    path = archive(tmp_path / "a.s2e", [*members, members[index]])
    refused(path, f"{members[index][0].name}': a duplicate")


def test_a_member_of_another_size_is_refused(members: list[Member], tmp_path: Path) -> None:
    """A member larger than listed is not unpacked at all."""
    members[2] = member("encoder.onnx", bytes(10**6))
    message = r"'encoder\.onnx': 1000000 bytes, manifest\.json says 24"
    refused(archive(tmp_path / "a.s2e", members), message)


def test_a_member_of_other_contents_is_refused(members: list[Member], tmp_path: Path) -> None:
    """Contents are hashed while they are unpacked."""
    members[2] = member("encoder.onnx", b"x" * 24)
    refused(archive(tmp_path / "a.s2e", members), r"encoder\.onnx: SHA-256 .* damaged")


def test_a_missing_member_is_named(members: list[Member], tmp_path: Path) -> None:
    """A listed file that is not there is an error."""
    del members[2]
    refused(archive(tmp_path / "a.s2e", members), r"'encoder\.onnx' is listed in its manifest")


def test_the_manifest_must_come_first(members: list[Member], tmp_path: Path) -> None:
    """Nothing is unpacked before the manifest says what may be."""
    path = archive(tmp_path / "a.s2e", [*members[1:], members[0]])
    refused(path, r"does not begin with manifest\.json, so it is no packed bundle")


def test_an_enormous_manifest_is_not_read(tmp_path: Path) -> None:
    """A manifest member that would fill the memory is refused by its header."""
    header, _ = member("manifest.json")
    header.size = LARGEST_MANIFEST + 1
    refused(archive(tmp_path / "a.s2e", [(header, b"")]), "does not begin with manifest")


def test_a_negative_size_is_refused(members: list[Member], tmp_path: Path) -> None:
    """Sizes that only a crafted header can have are refused."""
    header, _ = member("manifest.json")
    header.size = -(2**40)
    refused(archive(tmp_path / "a.s2e", [(header, b""), *members]), "'manifest.json' is a link")


def test_the_limit_of_bytes_is_kept(bundle: Bundle, tmp_path: Path) -> None:
    """More than the caller allows is refused before anything is written."""
    file = pack(bundle.path, tmp_path / "model.s2e")
    refused(file, f"holds {bundle.size} bytes, the limit is 100", limit_bytes=100)


def test_a_manifest_that_promises_more_than_the_file_is_refused(
    members: list[Member], tmp_path: Path
) -> None:
    """Nothing is allocated for sizes that the file cannot hold."""
    values = json.loads(members[0][1])
    values["files"]["encoder.onnx"]["size"] = 2**35
    members[0] = member("manifest.json", json.dumps(values).encode())
    refused(archive(tmp_path / "a.s2e", members), "truncated, 343597.* bytes are listed")


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (b"", "truncated, it ends 512 bytes too early"),
        (bytes(BLOCK), "truncated, it ends 512 bytes too early"),
        (bytes(BLOCK) + b"x" * BLOCK, "the end mark is damaged"),
        (bytes(2 * BLOCK) + b"x", "goes on after the end mark"),
    ],
)
def test_the_end_mark_is_required(
    members: list[Member], tmp_path: Path, end: bytes, message: str
) -> None:
    """A file that stops early or goes on is not taken for whole."""
    refused(archive(tmp_path / "a.s2e", members, end), message)


def test_a_damaged_header_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    """A header whose checksum is wrong is not believed."""
    file = pack(bundle.path, tmp_path / "model.s2e")
    data = bytearray(file.read_bytes())
    data[data.index(b"encoder.onnx\x00")] ^= 1
    file.write_bytes(data)
    refused(file, r"no tar header where one must be \(bad checksum\)")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(end=st.integers(min_value=0))
def test_every_truncation_is_refused(bundle: Bundle, end: int) -> None:
    """No beginning of a packed bundle is unpacked, wherever it was cut."""
    folder = bundle.path.parent
    whole = folder / "whole.s2e"
    if not whole.exists():
        pack(bundle.path, whole)
    data = whole.read_bytes()
    cut = folder / "cut.s2e"
    cut.write_bytes(data[: end % len(data)])
    with pytest.raises(BundleError, match=r"cut\.s2e: (.*truncated|does not begin)"):
        unpack(cut, folder / "out")
    assert sorted(path.name for path in folder.iterdir()) == ["cut.s2e", "model", "whole.s2e"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(place=st.integers(min_value=0), bit=st.integers(0, 7))
def test_flipped_bits_never_reach_a_file(bundle: Bundle, place: int, bit: int) -> None:
    """Whatever bit is damaged, unpacking fails, or gives files with the hashes listed."""
    folder = bundle.path.parent
    if not (folder / "whole.s2e").exists():
        pack(bundle.path, folder / "whole.s2e")
    data = bytearray((folder / "whole.s2e").read_bytes())
    data[place % len(data)] ^= 1 << bit
    (folder / "bad.s2e").write_bytes(data)
    try:
        restored = unpack(folder / "bad.s2e", folder / "out", overwrite=True)
    except BundleError:
        return
    restored.verify_hashes()
    assert restored.manifest.files == bundle.manifest.files
    assert isinstance(restored.manifest, Manifest)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to a pipe", "nothing"])
def test_only_a_regular_file_is_unpacked(tmp_path: Path, kind: str) -> None:
    """A pipe or a device may never end; it is not even opened."""
    path = tmp_path / "model.s2e"
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind != "nothing":
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe") if "link" in kind else (tmp_path / "pipe").rename(path)
    with limited():
        refused(path, "No such file" if kind == "nothing" else r"model\.s2e: not a regular file")
