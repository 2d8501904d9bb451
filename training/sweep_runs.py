"""The run folders of a sweep: one tokenizer and validation set, parts of one training corpus."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import TrainingError
from seq2edge.files.storage import file_errors, hidden_sibling
from seq2edge.model.dims import Dims
from seq2edge.training.batches import Plan
from seq2edge.training.corpus import COLUMNS, Corpus
from seq2edge.training.presets import PRESETS, make_dims
from seq2edge.training.recipe import Recipe
from seq2edge.training.run_folder import (
    FACTS,
    RECIPE,
    TOKENIZER,
    TRAIN,
    VALIDATION,
    Run,
    RunSetup,
    open_run,
    read_json,
    run_fingerprint,
    write_json,
)

Rows: TypeAlias = NDArray[np.int64]
HEAD = 32  # least width of a head


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """What every run of a sweep may cost: steps, or floating-point operations (0: not bounded so).

    Operations are estimated as 6 * parameters without embeddings * tokens (Kaplan et al. 2020).
    """

    steps: int = 0
    flops: float = 0.0


def with_size(recipe: Recipe, size: str) -> Recipe:
    """The recipe with the sizes of a preset, or of WIDTHxLAYERS (64x2: 2 layers in each stack).

    Raises TrainingError for anything else.
    """
    model = dataclasses.replace(
        recipe.model, width=0, hidden=0, heads=0, encoder_layers=0, decoder_layers=0
    )
    if size in PRESETS:
        preset = dataclasses.replace(model, preset=size)  # type: ignore[arg-type]
        return dataclasses.replace(recipe, model=preset)
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,2})", size)
    if not found:
        raise TrainingError(
            f"sizes: {size!r} is neither WIDTHxLAYERS, as 64x2, nor one of {', '.join(PRESETS)}"
        )
    width, layers = int(found[1]), int(found[2])
    heads = next(heads for heads in range(max(1, width // HEAD), 0, -1) if width % heads == 0)
    model = dataclasses.replace(
        model,
        width=width,
        hidden=4 * width,
        heads=heads,
        encoder_layers=layers,
        decoder_layers=layers,
    )
    return dataclasses.replace(recipe, model=model)


def dims_of(recipe: Recipe, facts: RunSetup) -> Dims:
    """The dims of another size with the same vocabularies."""
    known = facts.dims
    return make_dims(
        recipe, vocab=known.vocab, source_vocab=known.source_vocab, labels=known.labels
    )


def with_budget(recipe: Recipe, budget: Budget, parameters: int, step_tokens: float) -> Recipe:
    """The recipe with the budget's steps, rounded to whole checks so that the last one counts."""
    steps = budget.steps or recipe.optimizer.steps
    if budget.flops:
        steps = int(budget.flops / (6 * parameters * step_tokens))
        if not steps:
            raise TrainingError(
                f"flops: {budget.flops:.1e} are less than one step of {parameters:,} parameters "
                f"and {step_tokens:,.0f} tokens"
            )
    wanted = max(1, min(steps, round(steps / recipe.check.every)))
    checks = min(range(wanted, min(steps, 2 * wanted) + 1), key=lambda count: steps % count)
    every = steps // checks
    return dataclasses.replace(
        recipe,
        optimizer=dataclasses.replace(recipe.optimizer, steps=every * checks),
        check=dataclasses.replace(recipe.check, every=every),
    )


def step_tokens(corpus: Corpus, recipe: Recipe) -> float:
    """Tokens that a step sees on average, without padding."""
    plan = Plan(corpus=corpus, tokens=recipe.optimizer.batch_tokens, seed=recipe.seed)
    return sum(map(len, corpus.ids)) / sum(1 for _ in plan.epoch(0))


def prepare_run_folder(recipe: Recipe, shared: Path, folder: Path, rows: int) -> Run:
    """Make a run folder whose corpora are there already; `rows` of the training rows at random.

    A smaller part is a part of every larger one.
    """
    asked, material = run_fingerprint(recipe), open_run(shared)
    facts = dataclasses.replace(material.facts, dims=dims_of(recipe, material.facts))
    with file_errors(folder, TrainingError):
        if (folder / RECIPE).is_file() and read_json(folder / RECIPE) != asked:
            shutil.rmtree(folder)  # nothing was learnt in it
        folder.mkdir(parents=True, exist_ok=True)
        for name in (TOKENIZER, VALIDATION):
            shutil.copytree(shared / name, folder / name, dirs_exist_ok=True)
        if not (folder / TRAIN).exists():
            write_part(material.train, folder / TRAIN, rows, recipe.seed)
    write_json(folder / FACTS, json.loads(json.dumps(dataclasses.asdict(facts))))
    write_json(folder / RECIPE, asked)
    return open_run(folder)


def write_part(corpus: Corpus, folder: Path, rows: int, seed: int) -> None:
    """A corpus of `rows` rows, of each file in proportion, one at least."""
    chosen = choose(corpus.files, rows, seed)
    partial = hidden_sibling(folder)
    try:
        partial.mkdir()
        everything = np.concatenate(chosen)
        for column, name in enumerate(COLUMNS[: len(corpus.ids)]):
            lengths = corpus.lengths_of(everything, column)
            ids = [corpus.row(int(row), column) for row in everything]
            np.concatenate(ids).astype(np.uint32).tofile(partial / f"{name}.ids")
            np.cumsum(lengths).astype(np.int64).tofile(partial / f"{name}.ends")
        meta = {
            "files": [len(part) for part in chosen],
            "columns": len(corpus.ids),
            "bad": dataclasses.asdict(corpus.bad),
        }
        (partial / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def choose(files: Sequence[int], rows: int, seed: int) -> list[Rows]:
    """Row numbers of each file, in order: the first ones of an order that only the seed decides."""
    chosen, first, total = [], 0, sum(files)
    for number, count in enumerate(files):
        order = np.random.default_rng((seed, number)).permutation(count)
        wanted = min(count, max(1, round(rows * count / total)))
        chosen.append(np.sort(order[:wanted]) + first)
        first += count
    return chosen
