"""The table of a demo: what each stage did and how long it took."""

from __future__ import annotations

import time
from pathlib import Path

from rich.table import Table


class Stages:
    """Times the stages and collects the table."""

    def __init__(self, title: str) -> None:
        self.table = Table("stage", "seconds", "result", title=title)
        self._begin = time.perf_counter()

    def done(self, stage: str, result: str) -> None:
        """One row: everything since the last one."""
        now = time.perf_counter()
        self.table.add_row(stage, f"{now - self._begin:.1f}", result)
        self._begin = time.perf_counter()


def megabytes(folder: Path) -> float:
    """The size of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
