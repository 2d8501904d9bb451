"""Files that only save time: whole or not at all, and named after what they are for."""

from __future__ import annotations

from pathlib import Path

import pytest

from seq2edge.files import user_cache
from seq2edge.files.user_cache import cache_folder, file_name, write_cached


def test_the_folder_is_the_users(monkeypatch, tmp_path):
    """As the environment says, else in the home; none without a home."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "seq2edge"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "seq2edge"

    def homeless(_):
        raise RuntimeError("no home")

    monkeypatch.setattr(user_cache.Path, "expanduser", homeless)
    assert cache_folder() is None


def test_names_hold_no_characters_that_a_folder_refuses():
    """A device's name has blanks, and could have a slash."""
    name = file_name("tensorrt", "10.3.0", "NVIDIA A/B (x) ", suffix=".timings")
    assert name == "tensorrt-10.3.0-NVIDIA-A-B-x.timings"


def test_a_file_is_written_whole_or_not_at_all(monkeypatch, tmp_path):
    """With its folder; what was there stays where the new one cannot take its place."""
    path = tmp_path / "a" / "b"
    write_cached(path, b"old")
    write_cached(path, b"older")
    assert path.read_bytes() == b"older"

    def full(self, _):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_cached(path, b"new")
    assert path.read_bytes() == b"older"
    assert list(path.parent.iterdir()) == [path]
