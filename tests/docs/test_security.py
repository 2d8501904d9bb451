"""SECURITY.md promises nothing without naming what shows it."""

from __future__ import annotations

import re
from pathlib import Path

from seq2edge import cli

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_what_shows_a_promise_is_there() -> None:
    """Every test and rig that the page names, and one at least in each line of its table."""
    rows = re.findall(r"^\| (?!from a stranger|---)(.+) \|$", TEXT, re.MULTILINE)
    assert len(rows) == 12
    assert all(re.search(r"`tests/\S+`$", row) for row in rows)
    named = set(re.findall(r"`((?:tests|benchmarks|docs)/[\w./-]+)`", TEXT))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_options_that_it_names_exist() -> None:
    """In some command, as they are written."""
    known = {option for c in cli.main.commands.values() for p in c.params for option in p.opts}
    options = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", TEXT))
    assert options
    assert options <= known
