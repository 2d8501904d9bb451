"""Attacks on everything that reads a stranger's files: `case.py` says what one is, `runner.py` how.

A third of them runs with the other tests, always the same; with `SEQ2EDGE_ATTACKS=all` (`make
attacks`) all do. `SEQ2EDGE_ATTACKS_PATH` is put before PYTHONPATH where they run: with the folder
of another ONNX Runtime (`pip install --target FOLDER onnxruntime==1.23.2`) they meet that one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KINDS = sorted(p.stem for p in HERE.glob("*.py") if "\ndef cases()" in p.read_text("utf-8"))
LEAST = 600  # attacks there are


def runner(*arguments: str) -> list[dict[str, Any]]:
    """What `runner.py` prints."""
    ahead = os.environ.get("SEQ2EDGE_ATTACKS_PATH")
    paths = [path for path in (ahead, os.environ.get("PYTHONPATH")) if path]
    done = subprocess.run(
        [sys.executable, str(HERE / "runner.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert not done.returncode, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_there_are_hundreds_of_attacks_each_with_a_name_of_its_own():
    """They are listed without being made."""
    names = [row["name"] for row in runner(".", "--list")]
    assert len(names) == len(set(names))
    assert len(names) >= LEAST
    assert {name.split(":")[0] for name in names} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_attack_is_refused_in_one_line_or_harmless(artefacts, kind):
    """No traceback, hang, signal or gigabyte; nothing read or written outside; its own outcome."""
    part = "1" if os.environ.get("SEQ2EDGE_ATTACKS") == "all" else "3"
    failed = [row for row in runner(str(artefacts), kind, "--part", part) if row["faults"]]
    assert not failed, "\n".join(f"{row['name']}: {'; '.join(row['faults'])}" for row in failed)


def test_the_runner_sees_what_goes_wrong(artefacts):
    """Its own traps: what each does is found out, and an honest bundle has no fault."""
    quickly = ("--seconds", "1", "--patience", "8")
    rows = {row["name"]: row["faults"] for row in runner(str(artefacts), "traps", *quickly)}
    assert not rows.pop("traps: nothing")
    ended = ("of computing", "GB", "hangs")  # on a busy machine whichever comes first
    for name, faults in rows.items():
        fault = name.removeprefix("traps: ")
        wanted = ended if fault in ended else (fault,)
        assert any(word in said for word in wanted for said in faults), (name, faults)
