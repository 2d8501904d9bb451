"""Hidden folders of runs: live ones are left alone, killed ones are finished and swept."""

from __future__ import annotations

import errno
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from killing import count_changes, end

from seq2edge.files import exchange, workspace
from seq2edge.files.storage import replacing, replacing_folder, scan, settle
from seq2edge.files.workspace import AGE, finish_replacement, sweep

NO_SWAP = errno.ENOSYS
OLD, NEW = {"a": "old", "b/c": "old"}, {"a": "new", "d/e": "new"}


def write(folder: Path, texts: dict[str, str]) -> Path:
    """A folder of these files."""
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def read(folder: Path) -> dict[str, str]:
    """The files of a folder."""
    return {name: (folder / name).read_text() for name in scan(folder)}


def replace(path: Path) -> Callable[[], None]:
    """A run that replaces a folder by NEW."""

    def run() -> None:
        with replacing_folder(path) as partial:
            write(partial, NEW)

    return run


def age(path: Path, seconds: float) -> None:
    """Let a file or folder and all in it be older."""
    changed = time.time() - seconds
    for each in (*path.rglob("*"), path):
        os.utime(each, (changed, changed), follow_symlinks=False)


def left_by(run: Callable[[], object], **kill: object) -> None:
    """A run that was killed."""
    assert end(run, **kill) == "killed"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the old folder is."""
    return write(tmp_path / "model", OLD)


@pytest.mark.parametrize("number", sorted(set(exchange.UNSUPPORTED)))
def test_where_nothing_can_be_exchanged_two_renames_do(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whatever the system says to it."""
    monkeypatch.setattr(exchange, "_call", lambda *_: number)
    replace(path)()
    assert read(path) == NEW
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("swap", [None, NO_SWAP])
def test_a_kill_at_any_change_leaves_the_old_or_the_new(path: Path, swap: int | None) -> None:
    """Seen by the next who opens it; and the next run leaves nothing else there."""
    outcomes = set()
    for number in range(count_changes(replace(path), swap=swap)):
        path = write(path.parent / f"model{number}", OLD)
        left_by(replace(path), kill_at=number, swap=swap)
        settle(path)
        assert read(path) in (OLD, NEW)
        outcomes.add(read(path)["a"])
        assert end(replace(path), swap=swap) == "done"
        assert read(path) == NEW
        assert not [each for each in path.parent.iterdir() if each.name.startswith(".")]
    assert outcomes == {"old", "new"}


def test_a_kill_between_two_renames_leaves_none_until_somebody_looks(path: Path) -> None:
    """Which shows that it is the note that finishes; whoever sweeps finishes too."""
    missing = []
    for number in range(count_changes(replace(path), swap=NO_SWAP)):
        path = write(path.parent / f"model{number}", OLD)
        left_by(replace(path), kill_at=number, swap=NO_SWAP)
        if not path.exists():
            missing.append(number)
        sweep(path.parent)
    (number,) = missing
    for finish in (finish_replacement, lambda path: sweep(path.parent)):
        path = write(path.parent / f"{number}", OLD)
        left_by(replace(path), kill_at=number, swap=NO_SWAP)
        assert not path.exists()
        finish(path)
        assert read(path) == NEW
        assert not [each for each in path.parent.iterdir() if each.name.startswith(".")]


def test_where_nothing_can_be_written_it_is_said_how_to_finish(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, with the command for somebody who may."""
    with pytest.raises(FileExistsError), workspace.workspace(path.parent) as work:
        write(work / "new", NEW)
        (work / "note").write_text(path.name)
        path.rename(work / "old")

        def refuse(*_: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", refuse)
            with pytest.raises(Exception, match=r"replacement was cut .*: seq2edge clean "):
                settle(path)
        settle(path)
        assert read(path) == NEW
        raise FileExistsError


@pytest.mark.parametrize("note", ["", "..", "../model", "/tmp/model", "a/model", "other"])
def test_a_note_names_what_lies_beside_it_and_nothing_else(path: Path, note: str) -> None:
    """And nothing is put where something is."""
    (path.parent / "below").mkdir()
    write(path.parent / "other", OLD)
    with workspace.workspace(path.parent / "below") as work:
        write(work / "new", NEW)
        write(work / "old", OLD)
        (work / "note").write_text(note)
        if note == "other":
            write(path.parent / "below" / "other", OLD)
    assert read(path) == read(path.parent / "other") == OLD
    assert scan(path.parent / "below") in ({}, {f"other/{name}": 3 for name in OLD})


def test_what_was_removed_by_hand_does_not_come_back(path: Path) -> None:
    """An old folder that is half removed is not what a reader finds."""
    with workspace.workspace(path.parent) as work:
        (work / "note").write_text(path.name)
        path.rename(work / "old")
        finish_replacement(path)
        assert not path.exists()


def test_an_interrupt_between_two_renames_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with the new folder in its place."""
    rename = Path.rename

    def interrupt(self: Path, target: Path) -> Path:
        moved = rename(self, target)
        if target.name == "old":
            monkeypatch.undo()
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(exchange, "_call", lambda *_: errno.EINVAL)
    monkeypatch.setattr(Path, "rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        replace(path)()
    assert read(path) == NEW
    assert list(path.parent.iterdir()) == [path]


def test_a_live_run_is_never_swept(path: Path) -> None:
    """Another run beside it, in this process or another, leaves it alone however old it is."""
    with replacing_folder(path) as partial:
        write(partial, NEW)
        age(partial.parent, 10 * AGE)
        assert sweep(path.parent) == []
        with replacing(path.parent / "file") as file:
            file.write_text("x")
        assert end(lambda: sweep(path.parent)) == "done"
    assert read(path) == NEW
    assert sorted(each.name for each in path.parent.iterdir()) == ["file", "model"]


def test_leftovers_are_removed_with_their_size(path: Path) -> None:
    """A folder of a run that was killed, with all in it; a dry run keeps it."""

    def die() -> None:
        with replacing_folder(path) as partial:
            (partial / "a").write_bytes(bytes(1000))
            os.link(path / "a", partial / "linked")  # its removal frees nothing
            os.kill(os.getpid(), 9)

    assert end(die) == "killed"
    (kept,) = sweep(path.parent, keep=True)
    assert kept.path.is_dir()
    (swept,) = sweep(path.parent)
    assert swept == kept
    assert 1000 <= swept.size < 1100  # the lock has a few
    assert list(path.parent.iterdir()) == [path]


def test_without_locks_age_tells(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows, and on file systems that know no locks."""
    left_by(replace(path), kill_at=4)
    (left,) = (each for each in path.parent.iterdir() if each != path)
    monkeypatch.setattr(workspace, "_lock", lambda _: None)
    assert sweep(path.parent) == []
    replace(path)()
    age(left, AGE + 60)
    (left / "new").touch()
    assert sweep(path.parent) == []
    age(left, AGE + 60)
    assert [each.path for each in sweep(path.parent)] == [left]


def test_another_machine_counts_by_age(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a shared file system its locks may not be seen here."""
    left_by(replace(path), kill_at=4)
    (left,) = (each for each in path.parent.iterdir() if each != path)
    monkeypatch.setattr(workspace, "_is_shared", lambda _: True)
    monkeypatch.setattr(platform, "node", lambda: "another")
    assert sweep(path.parent) == []
    age(left, AGE + 60)
    assert sweep(path.parent, keep=True) != []
    monkeypatch.undo()
    monkeypatch.setattr(workspace, "_is_shared", lambda _: True)
    assert [each.path for each in sweep(path.parent)] == [left]


def test_shared_file_systems_are_known_by_their_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /proc/self/mountinfo has it."""
    assert not workspace._is_shared(tmp_path)
    device = tmp_path.stat().st_dev
    line = f"36 35 {os.major(device)}:{os.minor(device)} / /mnt rw shared:1 - nfs4 host:/x rw\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "1 1 9:9 / / rw - nfs x rw\n" + line)
    assert workspace._is_shared(tmp_path)


def test_an_empty_one_is_removed_and_one_without_a_lock_when_it_is_old(tmp_path: Path) -> None:
    """A run was killed before it had a lock, or is about to take it: of nothing nothing is lost."""
    name = ".seq2edge-0123456789ab.partial"
    (tmp_path / name).mkdir()
    assert [each.path for each in sweep(tmp_path)] == [tmp_path / name]
    for old in (write(tmp_path / name, OLD), tmp_path / ".seq2edge-0123456789ac.partial"):
        old.write_text("a file, as older versions left them") if not old.is_dir() else None
        assert sweep(tmp_path) == []
        age(old, AGE + 60)
        assert [each.path for each in sweep(tmp_path)] == [old]
    assert list(tmp_path.iterdir()) == []


def test_who_is_swept_before_it_has_a_lock_begins_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a new folder and its lock another run may sweep."""
    mkdir, lock, seen = Path.mkdir, workspace._lock, []

    def swept(self: Path, *rest: object, **more: object) -> None:
        mkdir(self, *rest, **more)
        if self.name.startswith(".") and len(seen) < 1:
            seen.append("folder")
            assert len(sweep(path.parent)) == 1

    def swept_lock(handle: int) -> bool | None:
        if len(seen) == 1:
            seen.append("lock")
            assert len(sweep(path.parent)) == 1
        return lock(handle)

    monkeypatch.setattr(Path, "mkdir", swept)
    monkeypatch.setattr(workspace, "_lock", swept_lock)
    replace(path)()
    assert seen == ["folder", "lock"]
    assert read(path) == NEW
    assert list(path.parent.iterdir()) == [path]


def test_who_gets_its_lock_while_it_is_swept_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was empty when the other looked."""
    work = path.parent / ".seq2edge-0123456789ab.partial"
    work.mkdir()
    discard = workspace._discard

    def late(left: Path, lock: int) -> None:
        write(work, {"lock": "", "new/a": "new"})
        discard(left, lock)

    monkeypatch.setattr(workspace, "_discard", late)
    assert sweep(path.parent) == []
    assert scan(work) == {"lock": 0, "new/a": 3}


def test_links_are_not_followed(path: Path) -> None:
    """A link with the name of a leftover, and one in the place of its lock."""
    link = path.parent / ".seq2edge-0123456789ab.partial"
    link.symlink_to(path)
    assert sweep(path.parent) == []
    age(link, AGE + 60)
    sweep(path.parent)
    link.mkdir(exist_ok=True)
    (link / "lock").symlink_to(path / "a")
    (link / "inner").symlink_to(path)
    sweep(path.parent)
    assert read(path) == OLD


def test_a_failure_while_the_lock_is_written_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk may be full already."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        replace(path)()
    assert list(path.parent.iterdir()) == [path]


def test_paths_are_exchanged_in_one_step(path: Path) -> None:
    """Files too; and what cannot be is an error with its number."""
    other = path.parent / "other"
    other.write_text("x")
    exchange.exchange(path, other)
    assert read(other) == OLD
    assert path.read_text() == "x"
    with pytest.raises(FileNotFoundError, match="gone"):
        exchange.exchange(path, path.parent / "gone")


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EBUSY])
def test_what_cannot_be_moved_is_said(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A mount, or the lower layer of a container."""
    monkeypatch.setattr(exchange, "_call", lambda *_: number)
    with pytest.raises(OSError, match=os.strerror(number)):
        replace(path)()
    assert read(path) == OLD
    assert list(path.parent.iterdir()) == [path]
