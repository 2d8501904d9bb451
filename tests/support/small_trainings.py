"""Recipes of trainings that take a second, and the files they read."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from seq2edge.training.recipe import Recipe, recipe_of

WORDS = "red green blue black white brown grey pink".split()
MODEL = {
    "width": 16,
    "hidden": 32,
    "heads": 2,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "max_positions": 32,
    "dropout": 0.0,
}


def lines(count: int = 40, seed: int = 0) -> list[tuple[str, str]]:
    """Colours, and the same in reverse order."""
    random_ = random.Random(seed)
    rows = []
    for _ in range(count):
        words = random_.choices(WORDS, k=random_.randint(1, 5))
        rows.append((" ".join(words), " ".join(reversed(words))))
    return rows


def write_pairs(path: Path, rows: list[tuple[str, ...]]) -> str:
    """A file of tab-separated rows."""
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def small_recipe(folder: Path, **changes: Any) -> Recipe:
    """Ten steps of seq2seq on words; `changes` are sections, merged into the default ones."""
    values: dict[str, Any] = {
        "objective": "seq2seq",
        "data": {},
        "tokenizer": {"kind": "words", "size": 200},
        "model": dict(MODEL),
        "optimizer": {"steps": 10, "batch_tokens": 200, "warmup": 2, "label_smoothing": 0.0},
        "check": {"every": 5},
    }
    if "train" not in changes.get("data", {}):
        values["data"]["train"] = [write_pairs(folder / "train.tsv", lines())]
    for name, change in changes.items():
        if isinstance(change, dict):
            values.setdefault(name, {}).update(change)
        else:
            values[name] = change
    values["data"]["train"] = list(map(str, values["data"]["train"]))
    return recipe_of(values)
