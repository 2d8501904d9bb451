"""Cleaning whole trees of what killed runs left."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest
from killing import end

from seq2edge.errors import InputError
from seq2edge.files.leftovers import clean, hub_cache
from seq2edge.files.workspace import Leftover, temporary_folder, workspace


def leave(folder: Path) -> None:
    """What a killed run leaves in a folder: 1,000 bytes and its lock."""
    folder.mkdir(parents=True, exist_ok=True)

    def die() -> None:
        with workspace(folder) as work:
            (work / "new").write_bytes(bytes(1000))
            os.kill(os.getpid(), signal.SIGKILL)

    assert end(die) == "killed"


def test_folders_are_cleaned_at_any_depth(tmp_path: Path) -> None:
    """Of live runs, and of folders behind links, nothing is taken; a dry run takes nothing."""
    (tmp_path / "a").mkdir()
    with workspace(tmp_path / "a") as work:
        for name in ("a", "a/b/c", "elsewhere"):
            leave(tmp_path / name)
        (tmp_path / "a" / "link").symlink_to(tmp_path / "elsewhere")
        shown = list(clean([tmp_path / "a"], dry_run=True))
        assert [each.path.parent for each in shown] == [tmp_path / "a", tmp_path / "a/b/c"]
        assert all(1000 <= each.size < 1100 for each in shown)
        assert list(clean([tmp_path / "a"])) == shown
        assert work.is_dir()
    assert len(list(clean([tmp_path, tmp_path]))) == 1


def test_without_folders_it_looks_where_runs_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current folder, the cache, and the temporary files, but nothing below these."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path.parent / f"{tmp_path.name}-cache"))
    temporary = tmp_path.parent / f"{tmp_path.name}-temporary"
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    cache = tmp_path.parent / f"{tmp_path.name}-cache" / "seq2edge" / "timings"
    for folder in (tmp_path / "run", cache, temporary, temporary / "other"):
        leave(folder)
    swept = {each.path.parent for each in clean()}
    assert swept == {tmp_path / "run", cache, temporary}
    with temporary_folder() as folder:
        assert folder.parent == temporary


def test_the_next_temporary_folder_sweeps_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As all that is written beside a leftover does."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    leave(tmp_path)
    with temporary_folder() as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []


def test_downloads_that_were_left_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the hub's cache to which nothing was added for a day; whole files stay."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    blobs = tmp_path / "hub" / "models--owner--name" / "blobs"
    blobs.mkdir(parents=True)
    (tmp_path / "current").mkdir()
    monkeypatch.chdir(tmp_path / "current")
    for name in ("a.incomplete", "b.12345678.incomplete", "c"):
        (blobs / name).write_bytes(bytes(10))
        if not name.startswith("a"):
            os.utime(blobs / name, (1e9, 1e9))
    left = [Leftover(path=blobs / "b.12345678.incomplete", size=10)]
    assert list(clean(dry_run=True)) == left
    assert list(clean([tmp_path / "hub"])) == left
    assert sorted(path.name for path in blobs.iterdir()) == ["a.incomplete", "c"]


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"HF_HUB_CACHE": "/a/b", "HF_HOME": "/c"}, "/a/b"),
        ({"HF_HOME": "/c"}, "/c/hub"),
        ({}, "/caches/huggingface/hub"),
    ],
)
def test_the_hubs_cache_is_where_its_library_says(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str
) -> None:
    """By the same variables."""
    for name in ("HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert hub_cache(Path("/caches")) == Path(folder)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """A typing mistake cleans nothing, and says so."""
    with pytest.raises(InputError, match="gone: no such folder"):
        list(clean([tmp_path / "gone"]))
