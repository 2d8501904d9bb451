"""Tiny tasks to train on: words to spell, a recipe that learns in a second."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from seq2edge.training.recipe import Recipe, recipe_of

SIZES: dict[str, Any] = {
    "width": 32,
    "hidden": 64,
    "heads": 2,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "max_positions": 24,
    "dropout": 0.1,
}


def pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """Words and their letters: `abc` becomes `A B C`."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdef", k=rng.randint(2, 8))) for _ in range(count)]
    return [(word, " ".join(word.upper())) for word in words]


def write_rows(path: Path, rows: list[tuple[str, ...]]) -> str:
    """A file of tab-separated rows; its name."""
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def spelling(folder: Path, **changes: Any) -> Recipe:
    """A recipe on 300 words in `folder`; `section__key=value` changes it."""
    values: dict[str, Any] = {
        "objective": "seq2seq",
        "data": {
            "train": [write_rows(folder / "train.tsv", list(pairs(300, 0)))],
            "validation": [write_rows(folder / "validation.tsv", list(pairs(40, 1)))],
        },
        "tokenizer": {"kind": "characters", "size": 20, "target": "words", "target_size": 20},
        "model": dict(SIZES),
        "optimizer": {"steps": 30, "batch_tokens": 300, "warmup": 5, "learning_rate": 3e-3},
        "check": {"every": 10},
    }
    return changed(values, changes)


def sentences(folder: Path, objective: str, **changes: Any) -> Recipe:
    """A recipe of an objective that reads one text a row."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices("one two three four five six".split(), k=9)) for _ in range(200)]
    for name, part in (("train", texts[:170]), ("validation", texts[170:])):
        (folder / f"{name}.txt").write_text("".join(f"{t}\n" for t in part), encoding="utf-8")
    values: dict[str, Any] = {
        "objective": objective,
        "data": {
            "train": [str(folder / "train.txt")],
            "validation": [str(folder / "validation.txt")],
        },
        "tokenizer": {"kind": "words", "size": 200},
        "model": dict(SIZES),
        "optimizer": {"steps": 30, "batch_tokens": 400, "warmup": 5, "learning_rate": 3e-3},
        "check": {"every": 10},
    }
    return changed(values, changes)


def topics(folder: Path, **changes: Any) -> Recipe:
    """A classifier's recipe: a text is about what its words are."""
    rng = random.Random(0)
    words = {"fruit": "apple pear plum fig".split(), "tool": "saw axe drill rasp".split()}
    rows = [(" ".join(rng.choices(words[label], k=4)), label) for label in words for _ in range(60)]
    values: dict[str, Any] = {
        "objective": "classify",
        "data": {
            "train": [write_rows(folder / "train.tsv", list(rows[5:-5]))],
            "validation": [write_rows(folder / "validation.tsv", [*rows[:5], *rows[-5:]])],
        },
        "tokenizer": {"kind": "words", "size": 200},
        "model": dict(SIZES),
        "optimizer": {"steps": 30, "batch_tokens": 200, "warmup": 5, "learning_rate": 3e-3},
        "check": {"every": 10},
    }
    return changed(values, changes)


def changed(values: dict[str, Any], changes: dict[str, Any]) -> Recipe:
    """The recipe of `values` with `section__key=value` set."""
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            values.setdefault(section, {})[key] = value
        else:
            values[section] = value
    return recipe_of(values)
