"""Bundles made before seq2edge got its rooms (commit 777735c) stay what they were.

`tests/support/old_bundles` holds an encoder-decoder (BART) and an 8-bit decoder (Llama), tiny and
random, and the tokens that the code of that commit answered with.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import seq2edge
from seq2edge.bundle import Bundle
from seq2edge.bundle.archive import unpack
from seq2edge.runtime.backends.verification import verify_graphs

FOLDER = Path(__file__).resolve().parent.parent / "support" / "old_bundles"
RECORDED = json.loads((FOLDER / "answers.json").read_text(encoding="utf-8"))


@pytest.fixture(params=RECORDED["answers"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Bundle]:
    """The name of an old bundle, and the bundle unpacked."""
    return request.param, unpack(FOLDER / f"{request.param}.s2e", tmp_path / "bundle")


def test_old_bundles_open(old: tuple[str, Bundle]) -> None:
    """Every hash is right and the manifest is of format 4."""
    name, bundle = old
    assert Bundle.open(bundle.path, hashes=True) == bundle
    values = json.loads((bundle.path / "manifest.json").read_text(encoding="utf-8"))
    assert values["format"] == bundle.manifest.format == 4
    assert bundle.manifest.provenance.tool_version == "0.1.0"
    assert bundle.manifest.precision == ("int8-weight" if name.endswith("int8") else "float32")


def test_old_bundles_verify(old: tuple[str, Bundle]) -> None:
    """The graphs give the logits and tokens that were recorded at export."""
    _, bundle = old
    outcomes = dict(verify_graphs(bundle, device="cpu"))
    assert any(outcome.ran for outcome in outcomes.values())
    assert all(outcome.passed for outcome in outcomes.values()), outcomes


def test_old_bundles_give_the_same_tokens(old: tuple[str, Bundle]) -> None:
    """Greedily and with beams."""
    name, bundle = old
    model = seq2edge.load(bundle.path)
    for answer in RECORDED["answers"][name]:
        options = model.options.replace(num_beams=answer["num_beams"], max_new_tokens=10)
        sequences = model.generate(RECORDED["prompts"], options)
        assert [list(best[0].ids) for best in sequences] == answer["ids"]
