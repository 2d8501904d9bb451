"""The synopsis of a package from its description.

    python examples/summarization/prepare.py

Writes `data/train.tsv`, `validation.tsv` and `test.tsv` (description, tab, synopsis), and
`train-1000.tsv`, 1,000 random rows of the first. Packages of one source, which often share
paragraphs, stay in one part.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from debian import packages, part_of
from weights import FetchError

DATA = Path(__file__).resolve().parent / "data"
FEW, SEED = 1000, 1


def main() -> None:
    """See the module."""
    rows: dict[str, dict[tuple[str, str], None]] = {"train": {}, "validation": {}, "test": {}}
    for package in packages():
        synopsis, paragraphs = package.descriptions["en"]
        if synopsis and paragraphs:
            rows[part_of(package.source)][" ".join(paragraphs), synopsis] = None
    DATA.mkdir(exist_ok=True)
    for part, examples in rows.items():
        write(DATA / f"{part}.tsv", list(examples))
    write(DATA / f"train-{FEW}.tsv", random.Random(SEED).sample(list(rows["train"]), FEW))


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    """Description, tab, synopsis."""
    path.write_text("".join(f"{text}\t{short}\n" for text, short in rows), encoding="utf-8")
    print(f"{path}: {len(rows):,} rows")


if __name__ == "__main__":
    try:
        main()
    except FetchError as error:
        sys.exit(f"prepare: {error}")
