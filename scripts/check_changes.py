"""Run the tests of what changed since the branch left main: committed, uncommitted and new files.

    python scripts/check_changes.py                # and what it takes is printed first
    python scripts/check_changes.py -x --durations=5    # more for pytest

A test file stands for itself, a module of `tests/support/` for the tests that import it, and a
module of the package for those that mirror it (`runtime/beam.py`: `tests/runtime/test_beam*.py`)
or, where none do, for those that import it, or else for its room's. Any other file stands for the
tests that name it.
What is read everywhere (`tests/conftest.py`, `errors.py`) is left to `make test`, and said.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
RULE, PACKAGING = "tests/test_import_rule.py", "tests/test_packaging.py"
MANY = 40  # test files


def main() -> int:
    """Print what is run and why, and run it; returns pytest's exit code."""
    tests: set[str] = set()
    for file in sorted(changed_files(ROOT)):
        chosen = tests_of(file, ROOT)
        print(f"{file}: {_told(chosen)}")
        tests |= chosen if len(chosen) <= MANY else set()
    if not tests:
        return 0
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile"]
    return subprocess.call([*command, *sys.argv[1:], *sorted(tests)], cwd=ROOT)


def _told(tests: set[str]) -> str:
    if len(tests) > MANY:
        return f"read by {len(tests)} test files, which `make test` runs"
    return ", ".join(sorted(tests)) or "no test of its own"


def changed_files(root: Path, main: str = "main") -> set[str]:
    """What differs from where this branch left `main`, and files that git does not know yet."""
    base = _git(root, "merge-base", "HEAD", main).strip()
    changed = _git(root, "diff", "--name-only", "-z", "--no-renames", base)
    new = _git(root, "ls-files", "--others", "--exclude-standard", "-z")
    return {name for name in (changed + new).split("\0") if name}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout


def tests_of(file: str, root: Path) -> set[str]:
    """The test files, relative to the root, that a changed file stands for."""
    path = PurePosixPath(file)
    if path.parts[0] == "tests":
        return _of_a_test(path, root)
    if path.suffix != ".py":
        named = _that_match(re.escape(path.name), root)
        if path.suffix == ".md":
            named |= _names(root.glob("tests/docs/test_*.py"), root)
        return named | {PACKAGING} if file == "pyproject.toml" else named
    room = root.joinpath("tests", path.parent)
    inside = path.parts[0] not in ("examples", "benchmarks", "scripts")
    tests = (
        _names([*room.glob(f"test_{path.stem}.py"), *room.glob(f"test_{path.stem}_*.py")], root)
        or _that_match(_imported(path) if inside else rf"\b{path.stem}\b", root)
        or _names(room.glob("test_*.py"), root)
    )
    if inside:
        tests.add(RULE)
    return tests | {PACKAGING} if path.name == "__init__.py" else tests


def _names(tests: Iterable[Path], root: Path) -> set[str]:
    return {test.relative_to(root).as_posix() for test in tests}


def _of_a_test(path: PurePosixPath, root: Path) -> set[str]:
    """Itself, all in the folder of a conftest.py, or those that need a module of the support."""
    if path.name.startswith("test_"):
        return {str(path)} if (root / path).is_file() else set()
    if path.name == "conftest.py":
        return _names((root / path.parent).rglob("test_*.py"), root)
    helpers, more = {path.stem}, {path.stem}
    while more:
        words = "|".join(more)
        more = {
            helper.stem
            for helper in (root / "tests" / "support").glob("*.py")
            if re.search(rf"^\s*(import|from) ({words})\b", helper.read_text("utf-8"), re.MULTILINE)
        } - helpers
        helpers |= more
    return _that_match(rf"(?m)^\s*(import|from) ({'|'.join(helpers)})\b|\"{path.name}\"", root)


def _imported(path: PurePosixPath) -> str:
    """What the import of a module of the package looks like, as a pattern."""
    *room, name = path.with_suffix("").parts
    if name == "__init__":
        return rf"\b{re.escape('.'.join(['seq2edge', *room]))}( import|$)"
    parent = re.escape(".".join(["seq2edge", *room]))
    return rf"\b{parent}(\.{name}\b| import (\([^)]*|[^\n(]*)\b{name}\b)"


def _that_match(pattern: str, root: Path) -> set[str]:
    tests = (root / "tests").rglob("test_*.py")
    return _names((test for test in tests if re.search(pattern, test.read_text("utf-8"))), root)


if __name__ == "__main__":
    raise SystemExit(main())
