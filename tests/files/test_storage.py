"""Hashing and listing files."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from pathlib import Path

import pytest

from seq2edge.errors import BundleError
from seq2edge.files import exchange, storage, workspace
from seq2edge.files.storage import (
    CHUNK,
    DISK_FULL,
    REMEDIES,
    copy_hashed,
    file_errors,
    fingerprint,
    replacing,
    replacing_folder,
    scan,
)


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 2 * CHUNK + 7])
def test_fingerprints_are_size_and_sha256(tmp_path: Path, size: int) -> None:
    """Files of any number of chunks are hashed whole."""
    data = os.urandom(size)
    (tmp_path / "a").write_bytes(data)
    record = fingerprint(tmp_path / "a")
    assert (record.size, record.sha256) == (size, hashlib.sha256(data).hexdigest())


def test_copying_stops_at_the_size_asked() -> None:
    """Exactly the bytes asked for are taken from the source."""
    source, sink = io.BytesIO(b"abcdef"), io.BytesIO()
    record = copy_hashed(source, sink, size=4)
    assert (record.size, sink.getvalue(), source.read()) == (4, b"abcd", b"ef")
    assert copy_hashed(io.BytesIO(b"ab"), None, size=4).size == 2
    assert copy_hashed(io.BytesIO(b"ab"), None, size=0).size == 0


def test_scanning_lists_files_at_any_depth(tmp_path: Path) -> None:
    """Names are relative and joined by slashes; empty folders do not show."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a/b/c").write_bytes(b"xyz")
    (tmp_path / "z").write_bytes(b"")
    assert scan(tmp_path) == {"a/b/c": 3, "z": 0}


def test_file_system_errors_name_their_subject(tmp_path: Path) -> None:
    """The system's reason follows the path."""
    with pytest.raises(BundleError, match="gone: No such file or directory"):
        fingerprint(tmp_path / "gone")
    with pytest.raises(BundleError, match=r"^x: Permission denied$"), file_errors(Path("x")):
        raise PermissionError(13, "Permission denied")


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was forced onto the disk, as names in a test's folder, and when something moved."""
    names: list[str] = []
    sync, replace, call = exchange.sync, Path.replace, exchange._call

    def record(path: Path) -> None:
        names.append("partial" if path.suffix == ".partial" else path.name)
        sync(path)

    for module in (exchange, storage, workspace):
        monkeypatch.setattr(module, "sync", record)
    monkeypatch.setattr(Path, "replace", lambda *a: (names.append("REPLACE"), replace(*a))[1])
    monkeypatch.setattr(exchange, "_call", lambda *a: (names.append("EXCHANGE"), call(*a))[1])
    return names


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, synced: list[str]) -> None:
    """File and folder reach the disk in that order; an exception leaves the old file alone."""
    path = tmp_path / "a"
    for text in ("old", "new"):
        with replacing(path) as partial:
            partial.write_text(text)
            assert not path.exists() or path.read_text() == "old"
    assert path.read_text() == "new"
    assert synced == ["new", "REPLACE", tmp_path.name] * 2
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path, synced: list[str]) -> None:
    """Nothing of the old folder is left in the new one, nothing of a failed one anywhere.

    All of the new one reaches the disk before it takes its place, and that before the old one goes.
    """
    path = tmp_path / "parent" / "folder"
    for name in ("first", "second"):
        with replacing_folder(path) as partial:
            (partial / name).write_text(name)
    assert scan(path) == {"second": 6}
    assert synced[:3] == ["first", "new", "parent"]
    assert synced[3:] == ["second", "new", "partial", "EXCHANGE", "parent", "partial"]
    with pytest.raises(KeyboardInterrupt), replacing_folder(path) as partial:
        (partial / "half").write_text("x")
        raise KeyboardInterrupt
    assert scan(tmp_path) == {"parent/folder/second": 6}
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old folder, which had to move aside, comes back."""
    path, rename = tmp_path / "folder", Path.rename
    with replacing_folder(path) as partial:
        (partial / "old").write_text("x")

    def failing(self: Path, target: Path) -> Path:
        if (self / "new").exists():
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    monkeypatch.setattr(exchange, "_call", lambda *_: errno.ENOSYS)
    with pytest.raises(OSError, match="Input/output"), replacing_folder(path) as partial:
        (partial / "new").write_text("x")
    assert scan(tmp_path) == {"folder/old": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", DISK_FULL)
@pytest.mark.parametrize("kind", ["system", "cause", "context", "words"])
def test_a_full_disk_is_known_however_it_is_said(number: int, kind: str) -> None:
    """A disk, a quota or a limit of sizes, from whatever library: one line with a remedy."""
    full = OSError(number, os.strerror(number))

    def write() -> None:
        if kind == "system":
            raise full
        if kind == "words":
            raise RuntimeError(f"I/O error: {os.strerror(number)} (os error {number})")
        try:
            raise full
        except OSError as error:
            raise RuntimeError("cannot be written") from (error if kind == "cause" else None)

    with pytest.raises(BundleError) as caught, file_errors(Path("model")):
        write()
    assert str(caught.value) == f"model: {os.strerror(number)}{REMEDIES[number]}"


def test_other_exceptions_pass_through() -> None:
    """What is no matter of the disk is not disguised as one, nor is an error of ours."""
    for error in (RuntimeError("(os error 2)"), ValueError("28"), BundleError("x: y")):
        with pytest.raises(type(error)) as caught, file_errors(Path("model")):
            raise error
        assert caught.value is error
