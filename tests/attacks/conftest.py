"""Honest artefacts, which attacks and fuzzers begin with."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def _module():
    """`artefacts.py`, which is a script too."""
    sys.path.insert(0, str(HERE))
    try:
        return importlib.import_module("artefacts")
    finally:
        sys.path.remove(str(HERE))


def assemble(folder: Path, **bundles: str) -> Path:
    """The artefacts, of bundles that other tests use too."""
    _module().gather(folder / "all", {name: Path(path) for name, path in bundles.items()})
    return folder / "all"


@pytest.fixture(scope="session")
def artefacts(made_once, speaking) -> Path:
    """Bundles, checkpoints and files; every case takes a copy."""
    options = _module().BUNDLES
    return made_once(assemble, **{name: str(speaking(name, **options[name])) for name in options})
