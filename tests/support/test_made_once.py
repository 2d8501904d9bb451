"""What tests share is made once, and nobody changes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_once import MadeOnce

CALLS: list[str] = []


def write(folder: Path, word: str, *, times: int = 1, fail: bool = False) -> Path:
    """A file with that word."""
    CALLS.append(word)
    (folder / "file").write_text(word * times)
    if fail and CALLS.count(word) == 1:
        raise OSError("the first attempt")
    return folder / "file"


def test_two_workers_read_what_one_made(tmp_path: Path) -> None:
    """Equal arguments have one folder, others another one."""
    one, other = MadeOnce(tmp_path / "shared"), MadeOnce(tmp_path / "shared")
    assert one(write, "a") == other(write, "a") == one(write, "a")
    assert CALLS.count("a") == 1
    assert one(write, "a", times=2).read_text() == "aa"
    assert other(write, "a").read_text() == "a"
    other.check()


def test_what_failed_is_made_again(tmp_path: Path) -> None:
    """Nothing of the first attempt is taken."""
    shared = MadeOnce(tmp_path / "shared")
    with pytest.raises(OSError, match="the first attempt"):
        shared(write, "b", fail=True)
    assert shared(write, "b", fail=True).read_text() == "b"
    assert CALLS.count("b") == 2


def test_a_changed_folder_is_named(tmp_path: Path) -> None:
    """A file more, or other contents."""
    shared = MadeOnce(tmp_path / "shared")
    file = shared(write, "c")
    shared.check()
    (file.parent / "more").touch()
    with pytest.raises(AssertionError, match=r"a test changed .*write-"):
        shared.check()
    (file.parent / "more").unlink()
    file.write_text("another")
    with pytest.raises(AssertionError, match=r"a test changed .*write-"):
        shared.check()


def test_local_functions_are_refused(tmp_path: Path) -> None:
    """Two of them may have one name, and would get each other's folder."""
    with pytest.raises(AssertionError, match="two local functions"):
        MadeOnce(tmp_path / "shared")(lambda folder: folder)
