"""The update of docs/updates.md, killed at every change on the disk: old or new, always whole."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import killing
import pytest
from key_pairs import Pair, make_pair

from seq2edge.bundle import Bundle
from seq2edge.bundle.archive import pack
from seq2edge.bundle.manifest import Manifest
from seq2edge.errors import BundleError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "updates.md"


Release = Callable[[Pair, int], None]


@pytest.fixture
def release(make_bundle: Callable[..., Bundle], make_manifest: Callable[..., Manifest]) -> Release:
    """`release(pair, number)`: a signed file in the present folder, made on that day."""

    def make(pair: Pair, number: int) -> None:
        manifest = make_manifest(engines=(), lexicon=None, graphs=())
        created = f"2026-01-{number:02}T00:00:00Z"
        origin = dataclasses.replace(manifest.provenance, created=created)
        manifest = dataclasses.replace(manifest, provenance=origin)
        pack(make_bundle(Path(f"made-{number}"), manifest).path, name(number), key=pair.private)

    return make


def name(number: int) -> str:
    """Of a release's file."""
    return f"release-{number}.s2e"


@pytest.fixture
def device(tmp_path: Path, release: Release, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The page's functions in a folder with two signed releases, the first of which runs."""
    monkeypatch.chdir(tmp_path)
    pair = make_pair(tmp_path, "update")
    for number in (1, 2):
        release(pair, number)
    (block,) = re.findall(r"```python\n(import os\n.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "page"}
    exec(block.replace('update("translator-1.s2e")\n', ""), names)
    # Without graphs: that a bundle answers is shown where the page itself runs.
    names["try_out"] = lambda folder: Bundle.open(folder, require_key=pair.public)
    names["update"](name(1))
    return names


def current() -> int:
    """The release that counts, opened with all hashes."""
    opened = Bundle.open("current", require_key="update.pub.pem")
    return int(opened.manifest.provenance.created[8:10])


def test_an_update_survives_a_cut_at_any_time(device: dict[str, Any]) -> None:
    """Killed before each change, some seconds in all; the next run ends what it began."""

    def run() -> None:
        device["update"](name(2))

    reached = set()
    for number in range(killing.count_changes(run)):
        device["point"](device["CURRENT"], Path("releases/release-1"))
        shutil.rmtree("releases/release-2", ignore_errors=True)
        assert killing.end(run, kill_at=number) == "killed", number
        reached.add(current())
        run()
        assert current() == 2, number
        hidden = [path for path in Path("releases").iterdir() if path.name.startswith(".")]
        assert hidden == [], number
        assert Bundle.open("previous", require_key="update.pub.pem").signed
    assert reached == {1, 2}


def test_what_is_no_update_changes_nothing(
    device: dict[str, Any], tmp_path: Path, release: Release
) -> None:
    """Of another key, damaged, one that does not answer, or older: what ran goes on."""
    release(make_pair(tmp_path, "other"), 3)
    with pytest.raises(BundleError, match="its signature is not of"):
        device["update"](name(3))
    data = bytearray(Path(name(2)).read_bytes())
    data[len(data) // 2] ^= 1
    Path(name(4)).write_bytes(data)
    with pytest.raises(BundleError):
        device["update"](name(4))
    device["try_out"], works = lambda _: 1 / 0, device["try_out"]
    with pytest.raises(ZeroDivisionError):
        device["update"](name(2))
    assert current() == 1
    device["try_out"] = works
    device["update"](name(2))
    Path(name(1)).rename(name(5))
    with pytest.raises(BundleError, match="older than what runs here"):
        device["update"](name(5))
    assert current() == 2
