"""What many tests read and none changes: made once in a run, by the worker that comes first."""

from __future__ import annotations

import fcntl
import hashlib
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

States = dict[str, tuple[int, int]]


class MadeOnce:
    """Folders below `root`, which the workers of one run share, and no other run sees."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._made: dict[Path, tuple[Any, States]] = {}

    def __call__(self, make: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """What `make(folder, ...)` returned, which must pickle; nobody may change the folder."""
        words = [_word(value) for value in (make, *arguments)]
        words += [f"{name}={_word(value)}" for name, value in sorted(named.items())]
        key = hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]
        folder = self.root / f"{make.__name__}-{key}"
        if folder not in self._made:
            self._made[folder] = self._load_or_make(folder, make, arguments, named)
        return self._made[folder][0]

    def _load_or_make(
        self, folder: Path, make: Callable[..., Any], arguments: tuple[Any, ...], named: Any
    ) -> tuple[Any, States]:
        """One worker makes it while the others wait; a make that raised is tried again."""
        self.root.mkdir(exist_ok=True)
        result = folder.with_suffix(".result")
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not result.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                value = make(folder, *arguments, **named)
                result.write_bytes(pickle.dumps((value, _states(folder))))
            return pickle.loads(result.read_bytes())

    def check(self) -> None:
        """Raise AssertionError naming a folder that a test has changed."""
        for folder, (_, states) in self._made.items():
            assert _states(folder) == states, f"a test changed {folder}, which others read"


def _word(value: Any) -> str:
    """What tells one argument from another: functions by their names, all else by its repr."""
    if callable(value):
        assert "<" not in value.__qualname__, "two local functions may have one name"
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)


def _states(folder: Path) -> States:
    """Size and time of every file below a folder."""
    stats = {str(path): path.stat() for path in folder.rglob("*") if path.is_file()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}
