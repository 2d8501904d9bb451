"""Which section of Debian a package belongs to, from its description alone.

    python examples/classification/prepare.py

Writes `data/train.tsv`, `validation.tsv` and `test.tsv` (description, tab, section), and
`train-1000.tsv`, 1,000 random rows of the first. Packages of one source stay in one part, a
description stands once.
"""

from __future__ import annotations

import collections
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from debian import Package, packages, part_of
from weights import FetchError

DATA = Path(__file__).resolve().parent / "data"
SECTIONS, FEW, SEED = 23, 1000, 1


def main() -> None:
    """See the module."""
    rows = collect(packages())
    DATA.mkdir(exist_ok=True)
    for part, examples in rows.items():
        write(DATA / f"{part}.tsv", examples)
    write(DATA / f"train-{FEW}.tsv", random.Random(SEED).sample(rows["train"], FEW))


def collect(candidates: list[Package]) -> dict[str, list[tuple[str, str]]]:
    """Rows by part; of the largest sections."""
    texts: dict[str, tuple[str, str]] = {}
    for package in candidates:
        text = " ".join(package.descriptions["en"][1])
        if text:
            texts.setdefault(text, (package.section, part_of(package.source)))
    counts = collections.Counter(section for section, _ in texts.values())
    kept = {section for section, _ in counts.most_common(SECTIONS)}
    rows: dict[str, list[tuple[str, str]]] = {"train": [], "validation": [], "test": []}
    for text, (section, part) in texts.items():
        if section in kept:
            rows[part].append((text, section))
    return rows


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    """Description, tab, section."""
    path.write_text("".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8")
    print(f"{path}: {len(rows):,} rows")


if __name__ == "__main__":
    try:
        main()
    except FetchError as error:
        sys.exit(f"prepare: {error}")
