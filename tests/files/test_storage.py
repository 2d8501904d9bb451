"""Hashing and listing files."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest

from seq2edge.errors import BundleError
from seq2edge.files import storage
from seq2edge.files.storage import (
    CHUNK,
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
    """What was forced onto the disk, as names in a test's folder."""
    names: list[str] = []
    sync = storage.sync

    def record(path: Path) -> None:
        names.append("partial" if path.suffix == ".partial" else path.name)
        sync(path)

    monkeypatch.setattr(storage, "sync", record)
    return names


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, synced: list[str]) -> None:
    """File and folder reach the disk in that order; an exception leaves the old file alone."""
    path = tmp_path / "a"
    for text in ("old", "new"):
        with replacing(path) as partial:
            partial.write_text(text)
            assert not path.exists() or path.read_text() == "old"
    assert path.read_text() == "new"
    assert synced == ["partial", tmp_path.name] * 2
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path, synced: list[str]) -> None:
    """Nothing of the old folder is left in the new one, nothing of a failed one anywhere."""
    path = tmp_path / "parent" / "folder"
    for name in ("old", "new"):
        with replacing_folder(path) as partial:
            (partial / name).write_text(name)
    assert scan(path) == {"new": 3}
    assert synced == ["old", "partial", "parent", "new", "partial", "parent"]
    with pytest.raises(KeyboardInterrupt), replacing_folder(path) as partial:
        (partial / "half").write_text("x")
        raise KeyboardInterrupt
    assert scan(tmp_path) == {"parent/folder/new": 3}
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
    with pytest.raises(OSError, match="Input/output"), replacing_folder(path) as partial:
        (partial / "new").write_text("x")
    assert scan(tmp_path) == {"folder/old": 1}
    assert list(tmp_path.iterdir()) == [path]
