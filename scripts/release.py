"""Make a release: its version, its changelog, wheel and source archive, a commit and a tag.

    python scripts/release.py 0.5.0

Refuses a tree with changes, a version that is not newer, a tag that is there, and an empty
changelog. What was built is checked on a machine without torch (`.ci/check_wheel`) before anything
is committed; where that fails, the tree is as before. Nothing is pushed: the last line says how.
"""

from __future__ import annotations

import datetime as dt
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE, CHANGES = "__init__.py", "CHANGELOG.md"
NAMES = (
    "README.md",
    "docs/*.md",
    "deploy/kubernetes/*.yaml",
)  # say seq2edge-0.5.0 or seq2edge:0.5.0


class Refusal(Exception):  # noqa: N818 - it is an answer
    """Why there is no release; one line."""


def main() -> int:
    """Returns the exit code."""
    if len(sys.argv) != 2:
        print("usage: python scripts/release.py VERSION")
        return 2
    try:
        release(ROOT, sys.argv[1])
    except Refusal as refusal:
        print(f"release: {refusal}")
        return 1
    return 0


def release(root: Path, version: str) -> None:
    """Do it. Raises Refusal."""
    old = re.search(r'^__version__ = "(.+)"$', (root / CODE).read_text("utf-8"), re.MULTILINE)[1]
    check(root, old, version)
    for file in [root / CODE, *(file for name in NAMES for file in sorted(root.glob(name)))]:
        text = file.read_text(encoding="utf-8")
        pattern = rf'(__version__ = "|seq2edge[-:]){re.escape(old)}'
        file.write_text(re.sub(pattern, rf"\g<1>{version}", text), encoding="utf-8")
    today = dt.datetime.now(tz=dt.timezone.utc).date()
    changes = (root / CHANGES).read_text(encoding="utf-8")
    heading = f"## Unreleased\n\n## {version} - {today}\n"
    (root / CHANGES).write_text(changes.replace("## Unreleased\n", heading, 1), encoding="utf-8")
    try:
        build(root, version)
    except subprocess.CalledProcessError as error:
        git(root, "checkout", "--", ".")
        raise Refusal(f"{version}: {error}; nothing is changed") from error
    git(root, "commit", "-qam", f"Release {version}")
    git(root, "tag", "-a", f"v{version}", "-m", f"seq2edge {version}")
    print(f"dist/ has {version}; git push --follow-tags publishes it")


def check(root: Path, old: str, version: str) -> None:
    """Raises Refusal where this cannot be the next release."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise Refusal(f"{version}: no version; give three numbers, such as 0.5.0")
    if tuple(map(int, version.split("."))) <= tuple(map(int, old.split("."))):
        raise Refusal(f"{version}: not newer than {old}; give a larger one")
    if git(root, "status", "--porcelain"):
        raise Refusal("the tree has changes; commit them first")
    if git(root, "tag", "--list", f"v{version}"):
        raise Refusal(f"tag v{version} is there; give another version")
    if not unreleased(root):
        raise Refusal(f"{CHANGES}: nothing is unreleased; write what users notice")


def unreleased(root: Path) -> list[str]:
    """The entries of the changelog that no release has."""
    text = (root / CHANGES).read_text(encoding="utf-8")
    (section,) = re.findall(r"^## Unreleased\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"^- .*", section, re.MULTILINE)


def build(root: Path, version: str) -> None:
    """Build both archives into dist/, and check the wheel. Raises CalledProcessError."""
    python = ".venv/bin/python"
    shutil.rmtree(root / "dist", ignore_errors=True)
    wheel = f"dist/seq2edge-{version}-py3-none-any.whl"
    for command in (
        [python, "-m", "build"],
        [python, "-m", "pytest", "-q", "tests/test_packaging.py"],
        [".ci/check_wheel", wheel],
    ):
        subprocess.run(command, check=True, cwd=root)


def git(root: Path, *words: str) -> str:
    """What git prints."""
    done = subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
