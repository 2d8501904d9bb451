"""Raw text to pretrain on: the English descriptions of Debian's packages, a paragraph a line.

    python examples/pretraining/prepare.py

Writes `data/train.txt` and `data/validation.txt`. The packages that the other examples hold out
are in neither.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from debian import packages, part_of
from weights import FetchError

DATA = Path(__file__).resolve().parent / "data"


def main() -> None:
    """See the module."""
    parts: dict[str, dict[str, None]] = {"train": {}, "validation": {}}
    for package in packages():
        part = part_of(package.source)
        if part in parts:
            parts[part].update(dict.fromkeys(package.descriptions["en"][1]))
    DATA.mkdir(exist_ok=True)
    training = parts["train"]
    held = [line for line in parts["validation"] if line not in training]
    for name, lines in (("train", list(training)), ("validation", held)):
        text = "".join(f"{line}\n" for line in lines)
        (DATA / f"{name}.txt").write_text(text, encoding="utf-8")
        print(f"{DATA / name}.txt: {len(lines):,} paragraphs, {len(text) / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        main()
    except FetchError as error:
        sys.exit(f"prepare: {error}")
