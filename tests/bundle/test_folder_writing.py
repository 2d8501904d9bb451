"""Writing bundles: nothing half-written, nothing replaced that should not be."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from bundle_folders import edit, tree
from killing import end

from seq2edge.bundle import Bundle, BundleWriter
from seq2edge.bundle.manifest import Manifest
from seq2edge.errors import BundleError
from seq2edge.files import storage


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    """Whatever is raised while writing, no file of it remains."""
    with pytest.raises(KeyboardInterrupt), BundleWriter(tmp_path / "model") as writer:
        writer.path("a/b").write_bytes(b"x")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_leaving_without_finish_leaves_nothing(tmp_path: Path) -> None:
    """Only `finish` puts a bundle in place."""
    with BundleWriter(tmp_path / "model") as writer:
        writer.path("a").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_overwrite_leaves_the_old_bundle(
    folder: Path, make_manifest: Callable[..., Manifest]
) -> None:
    """A manifest that names files never written is refused, and the old bundle stays as it was."""
    before = tree(folder)
    with (
        pytest.raises(BundleError, match=r"graphs\[0\]\.file: 'encoder\.onnx' is not listed"),
        BundleWriter(folder, overwrite=True) as writer,
    ):
        writer.path("weights.data").write_bytes(b"new")
        writer.finish(make_manifest())
    assert tree(folder) == before
    assert list(folder.parent.iterdir()) == [folder]


def test_overwriting_replaces_the_whole_bundle(
    folder: Path, make_bundle: Callable[..., Bundle], make_manifest: Callable[..., Manifest]
) -> None:
    """Files of the old bundle do not survive in the new one."""
    bundle = make_bundle(folder, make_manifest(engines=()), overwrite=True)
    assert Bundle.open(folder, hashes=True) == bundle
    assert not (folder / "engines").exists()
    assert list(folder.parent.iterdir()) == [folder]


def test_a_failed_swap_puts_the_old_bundle_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the new folder cannot take the old one's place, the old one returns."""
    before = tree(folder)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if target == folder and (self / "fails").exists():
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    monkeypatch.setattr("seq2edge.files.exchange._call", lambda *_: errno.ENOSYS)
    with (
        pytest.raises(BundleError, match="model: Input/output error"),
        BundleWriter(folder, overwrite=True) as writer,
    ):
        writer.path("fails").write_bytes(b"")
        manifest = Bundle.open(folder).manifest
        for name in manifest.files:
            writer.path(name).write_bytes(b"new")
        writer.finish(manifest)
    assert tree(folder) == before
    assert list(folder.parent.iterdir()) == [folder]


def test_existing_bundles_are_kept_unless_told(
    folder: Path, make_bundle: Callable[..., Bundle]
) -> None:
    """Writing over a bundle must be asked for."""
    with pytest.raises(BundleError, match="model: exists, choose another place or overwrite"):
        make_bundle(folder)


def test_an_empty_folder_may_be_the_destination(
    tmp_path: Path, make_bundle: Callable[..., Bundle]
) -> None:
    """A folder made beforehand and still empty is taken."""
    (tmp_path / "model").mkdir()
    assert make_bundle(tmp_path / "model") == Bundle.open(tmp_path / "model")


def test_a_linked_destination_replaces_what_it_leads_to(
    folder: Path, tmp_path: Path, make_bundle: Callable[..., Bundle]
) -> None:
    """A link to a bundle stays a link."""
    (tmp_path / "link").symlink_to(folder)
    make_bundle(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert Bundle.open(folder, hashes=True).manifest.family == "whisper"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"notes.txt": "x"}, "not a bundle, so it is not overwritten"),
        ({"manifest.json": "{"}, "not a bundle, so it is not overwritten"),
        ({"manifest.json": "[]"}, "not a bundle, so it is not overwritten"),
        ({"manifest.json": '{"name": "web app"}'}, "not a bundle, so it is not overwritten"),
        ({"manifest.json": '{"format": "x", "files": {}}'}, "not a bundle, so it is not"),
        ({"manifest.json": '{"format": 9, "files": {"a": 1}}', "b": ""}, "'b' is no part of the"),
        ({"manifest.json": '{"format": 9, "files": {"a": 1}}', "a": ""}, "'a' was changed and"),
        ({"manifest.json": '{"format": 9, "files": {"a": {}}}', "a": "x"}, "'a' was changed and"),
    ],
)
def test_other_folders_are_never_overwritten(
    tmp_path: Path, make_bundle: Callable[..., Bundle], files: dict[str, str], message: str
) -> None:
    """Overwriting is for bundles, of any format, and never loses a file that is not of one."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(BundleError, match=message):
        make_bundle(folder, overwrite=True)
    assert tree(folder) == {name: text.encode() for name, text in files.items()}
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    "change", [lambda data: data + b"x", lambda data: bytes([data[0] ^ 1]) + data[1:]]
)
def test_a_bundle_with_a_changed_file_is_not_overwritten(
    folder: Path, make_bundle: Callable[..., Bundle], change: Callable[[bytes], bytes]
) -> None:
    """Its size or its hash shows it: somebody's work, or damage that should be seen."""
    path = folder / "tokenizer.json"
    path.write_bytes(change(path.read_bytes()))
    before = tree(folder)
    with pytest.raises(BundleError, match=r"'tokenizer\.json' was changed .*remove the folder"):
        make_bundle(folder, overwrite=True)
    assert tree(folder) == before


def test_a_bundle_that_lacks_a_file_may_be_overwritten(
    folder: Path, make_bundle: Callable[..., Bundle]
) -> None:
    """Of what is missing nothing is lost."""
    (folder / "tokenizer.json").unlink()
    assert make_bundle(folder, overwrite=True) == Bundle.open(folder, hashes=True)


@pytest.mark.parametrize("edit", ["", "an edit"])
def test_what_changes_while_a_bundle_is_written_is_not_overwritten(
    folder: Path, monkeypatch: pytest.MonkeyPatch, edit: str
) -> None:
    """The files are looked at again at the end; their hashes are read once where none changed."""
    hashed: list[Path] = []
    manifest = Bundle.open(folder).manifest
    fingerprint = storage.fingerprint

    def record(path: Path) -> storage.FileRecord:
        if path.is_relative_to(folder):
            hashed.append(path)
        return fingerprint(path)

    monkeypatch.setattr("seq2edge.bundle.folder.fingerprint", record)
    with contextlib.ExitStack() as stack:
        if edit:
            stack.enter_context(pytest.raises(BundleError, match=r"'tokenizer\.json' was changed"))
        writer = stack.enter_context(BundleWriter(folder, overwrite=True))
        for name in manifest.files:
            writer.path(name).write_bytes(b"new")
        if edit:
            (folder / "tokenizer.json").write_text(edit)
        writer.finish(manifest)
    assert edit or len(hashed) == len(manifest.files)
    assert (folder / "tokenizer.json").read_text() == (edit or "new")


def test_opening_a_bundle_finishes_its_replacement(
    folder: Path, make_bundle: Callable[..., Bundle], make_manifest: Callable[..., Manifest]
) -> None:
    """Where a run was killed between two renames; a link to the bundle will do."""

    def replace() -> None:
        make_bundle(folder, make_manifest(engines=()), overwrite=True)

    (folder.parent / "link").symlink_to(folder)
    number = 0
    while folder.exists():
        assert end(replace, kill_at=number, swap=errno.EINVAL) == "killed"
        number += 1
    assert Bundle.open(folder.parent / "link", hashes=True).manifest.engines == ()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["link", "model"]


def test_a_bundle_of_another_format_may_be_overwritten(
    folder: Path, make_bundle: Callable[..., Bundle]
) -> None:
    """What an older or newer version wrote can be replaced."""
    edit(folder, lambda values: values.update(format=9))
    assert make_bundle(folder, overwrite=True).manifest.format == 4


def test_a_file_is_no_destination(tmp_path: Path, make_bundle: Callable[..., Bundle]) -> None:
    """A file where the folder shall be is not replaced."""
    (tmp_path / "model").write_text("x")
    with pytest.raises(BundleError, match="model: not a folder, so it is not overwritten"):
        make_bundle(tmp_path / "model", overwrite=True)


def test_a_missing_parent_is_named(tmp_path: Path, make_bundle: Callable[..., Bundle]) -> None:
    """The folder that shall hold the bundle must be there."""
    with pytest.raises(BundleError, match=r"b: folder .*/a does not exist, make it first"):
        make_bundle(tmp_path / "a" / "b")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_an_unwritable_parent_is_named(
    tmp_path: Path,
    make_bundle: Callable[..., Bundle],
    monkeypatch: pytest.MonkeyPatch,
    code: int,
) -> None:
    """A parent that cannot be written is an error with the system's reason."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(BundleError, match=f"model: {os.strerror(code)}"):
        make_bundle(tmp_path / "model")


def test_a_full_disk_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    """Running out of space while the files are written leaves nothing and says what to do."""
    with (
        pytest.raises(BundleError, match="model: No space left on device, free some space"),
        BundleWriter(tmp_path / "model"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_writing_code_pass_through(tmp_path: Path) -> None:
    """What is no matter of the disk is not disguised as one."""
    with pytest.raises(FileNotFoundError, match="checkpoint"), BundleWriter(tmp_path / "model"):
        raise FileNotFoundError(errno.ENOENT, "no checkpoint")


@pytest.mark.parametrize("name", ["manifest.json", "../x", "/x", "a/../../x", "nul"])
def test_names_that_no_bundle_may_hold_are_not_written(tmp_path: Path, name: str) -> None:
    """Bad names are refused when a path is asked for."""
    with (
        pytest.raises(BundleError, match=r"reserved|expected a relative|device name"),
        BundleWriter(tmp_path / "model") as writer,
    ):
        writer.path(name)
    assert list(tmp_path.iterdir()) == []


def test_links_are_not_put_into_a_bundle(
    tmp_path: Path, make_manifest: Callable[..., Manifest]
) -> None:
    """A link that the writing code left is refused, since it would break elsewhere."""
    with pytest.raises(BundleError, match="'a' is a link"), BundleWriter(tmp_path / "b") as writer:
        writer.path("a").symlink_to(tmp_path)
        writer.finish(make_manifest())


def test_a_bundle_has_the_usual_permissions(folder: Path, tmp_path: Path) -> None:
    """The folder is as readable as any other made by this process."""
    (tmp_path / "plain").mkdir()
    assert folder.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_preview_shows_what_was_written_before_it_is_finished(tmp_path, make_manifest):
    """For checks that may still refuse the bundle: files and sizes are there, the folder is not."""
    with pytest.raises(RuntimeError, match="refused"), BundleWriter(tmp_path / "b") as writer:
        writer.path("weights.data").write_bytes(b"1234")
        shown = writer.preview(make_manifest())
        assert shown.manifest.files["weights.data"].size == 4
        assert shown.file("weights.data").read_bytes() == b"1234"
        assert not (tmp_path / "b").exists()
        raise RuntimeError("refused")
    assert list(tmp_path.iterdir()) == []
