"""`seq2edge clean`."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from command_line import call
from killing import end

from seq2edge.files.workspace import workspace


def test_it_says_what_it_removed_and_how_much(tmp_path: Path) -> None:
    """A line each, and the sum; a dry run says the same and removes nothing."""

    def die() -> None:
        with workspace(tmp_path) as work:
            (work / "new").write_bytes(bytes(123456))
            os.kill(os.getpid(), signal.SIGKILL)

    assert end(die) == "killed"
    shown = call("clean", tmp_path, "--dry-run")
    removed = call("clean", tmp_path)
    for result, verb in ((shown, "would remove"), (removed, "removed")):
        assert result.exit_code == 0
        line, total = result.stdout.splitlines()
        assert re.fullmatch(rf"{verb} {tmp_path}/\.seq2edge-\w{{12}}\.partial, 123,\d+ bytes", line)
        assert total == f"1 leftover, {line.split(', ')[1]}"
    assert list(tmp_path.iterdir()) == []
    assert call("clean", tmp_path).stdout == "0 leftovers, 0 bytes\n"
    assert call("clean", tmp_path / "gone").exit_code == 1
