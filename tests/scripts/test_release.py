"""What a release changes, what it refuses, and that a failed one leaves nothing behind."""

from __future__ import annotations

import re
import subprocess

import pytest
import release

CHANGES = "# Changelog\n\n## Unreleased\n\n### Added\n\n- A thing.\n\n## 0.1.0 - 2026-01-31\n"
FILES = {
    "__init__.py": '__version__ = "0.1.0"\n',
    "CHANGELOG.md": CHANGES,
    "README.md": "pip install seq2edge-0.1.0-py3-none-any.whl # since 0.1.0\n",
    "docs/jetson.md": "pip install seq2edge-0.1.0-py3-none-any.whl\n",
    "deploy/kubernetes/server.yaml": "image: seq2edge:0.1.0\n",
}


def git(tree, *words):
    """What git prints."""
    done = subprocess.run(["git", *words], cwd=tree, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A small repository, in which building says what it would build."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "-q")
    for name, value in (("name", "a"), ("email", "a@b")):
        git(tmp_path, "config", f"user.{name}", value)
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.setattr(release, "build", lambda *_: None)
    return tmp_path


def test_a_release_is_a_commit_and_a_tag(tree, capsys):
    """The version everywhere, the changelog's section with its day, nothing left to commit."""
    release.release(tree, "0.5.0")
    assert git(tree, "status", "--porcelain") == ""
    assert git(tree, "tag", "--points-at", "HEAD") == "v0.5.0\n"
    read = {name: (tree / name).read_text() for name in FILES}
    assert read["__init__.py"] == '__version__ = "0.5.0"\n'
    assert read["README.md"] == "pip install seq2edge-0.5.0-py3-none-any.whl # since 0.1.0\n"
    assert read["docs/jetson.md"] == "pip install seq2edge-0.5.0-py3-none-any.whl\n"
    assert read["deploy/kubernetes/server.yaml"] == "image: seq2edge:0.5.0\n"
    beginning = r"# Changelog\n\n## Unreleased\n\n## 0\.5\.0 - \d{4}-\d\d-\d\d\n\n### Added\n"
    assert re.match(beginning, read["CHANGELOG.md"])
    assert "git push --follow-tags" in capsys.readouterr().out
    with pytest.raises(release.Refusal, match=r"CHANGELOG\.md: nothing is unreleased"):
        release.release(tree, "0.6.0")


def test_what_is_no_release_is_refused(tree):
    """One line each, and the tree is as it was."""
    for version, message in (
        ("0.5", "0.5: no version; give three numbers"),
        ("0.1.0", "0.1.0: not newer than 0.1.0"),
        ("0.0.9", "0.0.9: not newer than 0.1.0"),
    ):
        with pytest.raises(release.Refusal, match=re.escape(message)):
            release.release(tree, version)
    git(tree, "tag", "v0.10.0")
    with pytest.raises(release.Refusal, match=r"tag v0\.10\.0 is there"):
        release.release(tree, "0.10.0")
    (tree / "new").touch()
    with pytest.raises(release.Refusal, match="the tree has changes"):
        release.release(tree, "0.5.0")
    assert git(tree, "diff") == ""


def test_a_release_that_fails_leaves_nothing(tree, monkeypatch, capsys):
    """Neither changed files nor a tag; the script ends with 1 and says which command failed."""

    def failing(*_):
        raise subprocess.CalledProcessError(1, ["build"])

    monkeypatch.setattr(release, "build", failing)
    monkeypatch.setattr(release, "ROOT", tree)
    monkeypatch.setattr(release.sys, "argv", ["release.py", "0.5.0"])
    assert release.main() == 1
    assert "release: 0.5.0: Command '['build']' returned" in capsys.readouterr().out
    assert git(tree, "status", "--porcelain") + git(tree, "tag") == ""


def test_no_version_is_wrong_usage(monkeypatch):
    """With the exit code of one."""
    monkeypatch.setattr(release.sys, "argv", ["release.py"])
    assert release.main() == 2
