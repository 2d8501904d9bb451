"""Every reader that is fuzzed (`fuzz.py`) on whole files, old findings, and a few damaged ones."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CHANGED = 40  # damaged files for each reader


@pytest.fixture(scope="module")
def readers(artefacts):
    """The module, with the artefacts that it needs."""
    sys.path.insert(0, str(HERE))
    try:
        module = importlib.import_module("readers")
    finally:
        sys.path.remove(str(HERE))
    module.prepare(artefacts)
    return module


def names() -> list[str]:
    """Of all readers; `readers.py` is imported when they run."""
    text = (HERE / "readers.py").read_text(encoding="utf-8")
    table = text[text.index("\nREADERS") :]
    return [line.split('"')[1] for line in table.splitlines() if line.startswith('    "')]


def changed(data: bytes, chosen: random.Random) -> bytes:
    """The bytes with a few set, cut out or repeated."""
    for _ in range(chosen.randint(1, 4)):
        at, length = chosen.randrange(len(data) + 1), chosen.choice((1, 2, 8, 100))
        put = chosen.choice((b"", bytes(length), b"\xff" * length, data[at : at + length] * 2))
        data = data[:at] + put + data[at + length :]
    return data


def test_every_reader_is_listed(readers):
    """The table and the names of the tests below."""
    assert names() == list(readers.READERS)
    assert {path.name for path in readers.SEEDS.iterdir()} <= set(names())


@pytest.mark.parametrize("name", names())
def test_what_a_reader_cannot_read_is_an_error_of_ours(readers, name):
    """Whole files, what fuzzers found before, and files damaged at random, always the same."""
    reader = readers.READERS[name]
    if not reader.here:
        pytest.skip(f"{reader.needs} is not installed")
    seeds = readers.seeds_of(name)
    chosen = random.Random(name)
    for data in [*seeds, *(changed(chosen.choice(seeds), chosen) for _ in range(CHANGED))]:
        readers.check(reader, data)
