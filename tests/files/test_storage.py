"""Hashing and listing files."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest

from seq2edge.errors import BundleError
from seq2edge.files.storage import CHUNK, copy_hashed, file_errors, fingerprint, scan


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
