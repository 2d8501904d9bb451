"""Real graphs without an export: those of the old bundles."""

from __future__ import annotations

from pathlib import Path

import pytest

from seq2edge.bundle import Bundle
from seq2edge.bundle.archive import unpack

OLD_BUNDLES = Path(__file__).resolve().parent.parent / "support" / "old_bundles"


@pytest.fixture(scope="session")
def old_bundles(tmp_path_factory) -> dict[str, Bundle]:
    """An encoder-decoder and an 8-bit decoder, by name; nobody changes them."""
    folder = tmp_path_factory.mktemp("old")
    return {path.stem: unpack(path, folder / path.stem) for path in OLD_BUNDLES.glob("*.s2e")}


@pytest.fixture(scope="session")
def old_graphs(old_bundles) -> dict[str, bytes]:
    """Their graphs' bytes, by bundle and file."""
    return {
        f"{name}/{graph.file}": bundle.file(graph.file).read_bytes()
        for name, bundle in old_bundles.items()
        for graph in bundle.manifest.graphs
    }
