"""What an attack is: an honest artefact, what a stranger did to it, and what must become of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

# Refused by the command that decides (`COMMANDS` in runner.py), or accepted by all of them. Of what
# was damaged at random it may be either; nothing else may happen.
Outcome = Literal["refused", "harmless", "either"]
Change = Callable[[Path], object]
CANARY = b"never to be read\n" * 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """`change` edits a copy of the artefact `start`, in place; beside it lies `outside`.

    `commands` are those of `start` where None. `old` is the outcome on the oldest ONNX Runtime,
    where that is another.
    """

    name: str
    start: str
    change: Change
    outcome: Outcome = "refused"
    old: Outcome | None = None
    commands: tuple[tuple[str, ...], ...] | None = None


def read_manifest(bundle: Path) -> dict[str, Any]:
    """The manifest's values."""
    return dict(json.loads((bundle / "manifest.json").read_bytes()))


def write_manifest(bundle: Path, values: object) -> None:
    """The manifest anew, whatever its values are."""
    (bundle / "manifest.json").write_text(json.dumps(values), encoding="utf-8")


def edited(change: Callable[[dict[str, Any]], object]) -> Change:
    """Edits the manifest's values."""

    def edit(bundle: Path) -> None:
        values = read_manifest(bundle)
        change(values)
        write_manifest(bundle, values)

    return edit


def placed(path: str, value: object) -> Change:
    """Sets one value of the manifest: `placed("dims.encoder.layers", -1)`."""

    def put(values: Any) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            values = values[int(parent)] if isinstance(values, list) else values[parent]
        values[int(last) if isinstance(values, list) else last] = value

    return edited(put)


def in_text(old: str, new: str) -> Change:
    """Replaces text of the manifest, for what no writer of JSON writes."""

    def replace(bundle: Path) -> None:
        path = bundle / "manifest.json"
        text = path.read_text(encoding="utf-8")
        assert old in text, old
        path.write_text(text.replace(old, new, 1), encoding="utf-8", errors="surrogatepass")

    return replace


def reseal(bundle: Path) -> None:
    """List the files that are there, with their sizes and hashes, as an attacker would."""
    values = read_manifest(bundle)
    values["files"] = {
        str(path.relative_to(bundle)): {
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(bundle.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
    write_manifest(bundle, values)


def sealed(*changes: Change) -> Change:
    """The changes one after the other, then hashes that fit."""

    def change_all(bundle: Path) -> None:
        for change in changes:
            change(bundle)
        reseal(bundle)

    return change_all


def written(name: str, data: bytes | str) -> Change:
    """Writes a file of the artefact anew."""

    def write(folder: Path) -> None:
        raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)

    return write


def rewritten(name: str, change: Callable[[bytes], bytes]) -> Change:
    """Replaces a file's bytes by what `change` makes of them."""

    def write(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return write


def json_edited(name: str, change: Callable[[Any], object]) -> Change:
    """Edits the values of a JSON file; what `change` returns, unless None, takes their place."""

    def edit(folder: Path) -> None:
        values = json.loads((folder / name).read_bytes())
        new = change(values)
        (folder / name).write_text(json.dumps(values if new is None else new), encoding="utf-8")

    return edit


def prefixed(kind: str, cases: Iterator[Case]) -> Iterator[Case]:
    """The cases with their kind before the name."""
    for case in cases:
        yield dataclasses.replace(case, name=f"{kind}: {case.name}")
