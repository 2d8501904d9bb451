"""Many trainings of one recipe: sizes of the model times amounts of data, and the law they follow.

The folder holds `shared/` (tokenizer and corpora), an ordinary run folder for every size and
amount (`64x2-10000/`), and at the end `sweep.json` and `sweep.png`. Runs have one tokenizer and
validation set, and parts of one training corpus.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle.manifest import utc_now
from seq2edge.errors import TrainingError
from seq2edge.files.progress import Say
from seq2edge.files.storage import file_errors, replacing_folder
from seq2edge.model.dims import Dims
from seq2edge.training.batches import Plan
from seq2edge.training.checkpoints import CARD
from seq2edge.training.corpus import Corpus, CorpusWriter
from seq2edge.training.presets import PRESETS, count_parameters, make_dims
from seq2edge.training.processes import started_by_launcher
from seq2edge.training.recipe import Recipe
from seq2edge.training.run_folder import (
    LAST,
    RECIPE,
    SETUP,
    TOKENIZER,
    TRAIN,
    VALIDATION,
    Run,
    RunSetup,
    prepare_run,
    read_json,
    run_fingerprint,
    write_json,
)
from seq2edge.training.scaling import Fit, Observation, fit_law
from seq2edge.training.train import MODEL, Machine, train

Rows: TypeAlias = NDArray[np.int64]
HEAD = 32  # least width of a head
SHARED, RESULT, PLOT = "shared", "sweep.json", "sweep.png"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """What every run of a sweep may cost: steps, or floating-point operations (0: not bounded so).

    Operations are estimated as 6 * parameters without embeddings * tokens (Kaplan et al. 2020).
    """

    steps: int = 0
    flops: float = 0.0


FREE, HERE = Budget(), Machine()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepRun:
    """One training. `parameters` are those without embeddings, `all_parameters` has them.

    `tokens` are the different ones in its data, source and target, `seen` those it has read;
    `loss` is the best check's, in nats a target token.
    """

    size: str
    rows: int
    parameters: int
    all_parameters: int
    tokens: int
    seen: int
    steps: int
    seconds: int
    loss: float
    device: str

    @property
    def counted(self) -> int:
        """The D of the law: different tokens that were read."""
        return min(self.tokens, self.seen)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """All runs, and the law or the reason why there is none."""

    budget: Budget
    runs: tuple[SweepRun, ...]
    fit: Fit | None
    refused: str


def sweep(
    recipe: Recipe,
    folder: str | Path,
    *,
    sizes: Sequence[str],
    rows: Sequence[int],
    budget: Budget = FREE,
    machine: Machine = HERE,
    say: Say = lambda _: None,
    quiet: bool = True,
) -> Sweep:
    """Train every size on every number of rows (0: all) and fit the law.

    Runs that are done are kept and one that was stopped goes on. Raises TrainingError for sizes,
    rows and recipes that cannot be swept, and whatever a training raises.
    """
    folder = Path(folder)
    recipes = [with_size(recipe, size) for size in sizes]
    _check(recipe, sizes, rows, budget)
    shared = prepare_run(recipe, folder / SHARED, say)
    for changed in recipes:
        dims_of(changed, shared.setup)
    amounts = _amounts(rows, len(shared.train))
    runs: list[SweepRun] = []
    for amount in amounts:
        for size, changed in zip(sizes, recipes, strict=True):
            say(f"run {len(runs) + 1} of {len(sizes) * len(amounts)}: {size}, {amount:,} rows")
            run = _run(changed, shared, size, amount, budget, machine, quiet=quiet)
            say(f"  validation loss {run.loss:.4f}, {run.steps:,} steps, {run.seconds} s")
            runs.append(run)
    done = conclude(budget, runs)
    write_json(folder / RESULT, to_dict(done, recipe))
    return done


def conclude(budget: Budget, runs: Sequence[SweepRun]) -> Sweep:
    """The law of these runs, or why there is none."""
    points = [
        Observation(parameters=run.parameters, tokens=run.counted, loss=run.loss) for run in runs
    ]
    try:
        return Sweep(budget=budget, runs=tuple(runs), fit=fit_law(points), refused="")
    except TrainingError as error:
        return Sweep(budget=budget, runs=tuple(runs), fit=None, refused=str(error))


def to_dict(sweep: Sweep, recipe: Recipe) -> dict[str, Any]:
    """Plain JSON values: what `sweep.json` holds."""
    values = dataclasses.asdict(dataclasses.replace(sweep, fit=None))
    if sweep.fit is not None:
        values["fit"] = dataclasses.asdict(dataclasses.replace(sweep.fit, repeats=()))
        del values["fit"]["repeats"]
    return {**values, "recipe": recipe.to_dict(), "created": utc_now()}


def _run(
    recipe: Recipe,
    shared: Run,
    size: str,
    rows: int,
    budget: Budget,
    machine: Machine,
    *,
    quiet: bool,
) -> SweepRun:
    """One run, unless it is done."""
    place = shared.folder.with_name(f"{size}-{rows}")
    everything, inner = count_parameters(dims_of(recipe, shared.setup))
    each = step_tokens(shared.train, recipe)
    recipe = with_budget(recipe, budget, inner, each)
    if (place / LAST).is_file() and read_json(place / RECIPE) != run_fingerprint(recipe):
        raise TrainingError(f"{place}: was run with another budget or recipe, choose a new folder")
    if not (place / MODEL / CARD).is_file():
        prepare_run_folder(recipe, shared, place, rows)
        train(recipe, place, resume=(place / LAST).is_file(), machine=machine, quiet=quiet)
    return _read(place, size, everything, inner, each)


def _read(place: Path, size: str, everything: int, inner: int, step: float) -> SweepRun:
    """A finished run's record, from its card; `step` are the tokens of one step."""
    card = read_json(place / MODEL / CARD)
    return SweepRun(
        size=size,
        rows=card["rows"],
        parameters=inner,
        all_parameters=everything,
        tokens=card["tokens"],
        seen=round(card["steps"] * step),
        steps=card["steps"],
        seconds=card["seconds"],
        loss=card["validation_loss"],
        device=f"{card['device']}, {card['processes']} process(es), {card['threads']} thread(s)",
    )


def _amounts(rows: Sequence[int], most: int) -> list[int]:
    for count in rows:
        if count > most:
            raise TrainingError(f"rows: {count:,} asked for, the recipe's files have {most:,}")
    return sorted({count or most for count in rows})


def _check(recipe: Recipe, sizes: Sequence[str], rows: Sequence[int], budget: Budget) -> None:
    """Refuse recipes, sizes and rows that cannot be swept."""
    if started_by_launcher():
        raise TrainingError("sweep: starts its processes itself, leave torchrun out")
    if not recipe.data.validation:
        raise TrainingError("data.validation: names no file, a sweep compares losses on one")
    if recipe.start:
        raise TrainingError("start: has one size, a sweep begins every model anew")
    for name, values in (("sizes", sizes), ("rows", rows)):
        if not values or len(set(values)) != len(values):
            raise TrainingError(f"{name}: {', '.join(map(str, values))!r}, name each one once")
    if budget.steps and budget.flops:
        raise TrainingError("budget: steps and flops contradict each other, give one")


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
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,2})", size)
    if not match:
        raise TrainingError(
            f"sizes: {size!r} is neither WIDTHxLAYERS, as 64x2, nor one of {', '.join(PRESETS)}"
        )
    width, layers = int(match[1]), int(match[2])
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


def dims_of(recipe: Recipe, setup: RunSetup) -> Dims:
    """The dims of another size with the same vocabularies."""
    dims = setup.dims
    return make_dims(recipe, vocab=dims.vocab, source_vocab=dims.source_vocab, labels=dims.labels)


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
    least = max(1, min(steps, round(steps / recipe.check.every)))
    checks = min(range(least, min(steps, 2 * least) + 1), key=lambda count: steps % count)
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


def prepare_run_folder(recipe: Recipe, shared: Run, folder: Path, rows: int) -> None:
    """Make a run folder whose corpora are there already; `rows` of the training rows at random.

    A smaller part is a part of every larger one.
    """
    fingerprint = run_fingerprint(recipe)
    setup = dataclasses.replace(shared.setup, dims=dims_of(recipe, shared.setup))
    with file_errors(folder, TrainingError):
        if (folder / RECIPE).is_file() and read_json(folder / RECIPE) != fingerprint:
            shutil.rmtree(folder)  # nothing was learnt in it
        folder.mkdir(parents=True, exist_ok=True)
        for name in (TOKENIZER, VALIDATION):
            shutil.copytree(shared.folder / name, folder / name, dirs_exist_ok=True)
        if not (folder / TRAIN).exists():
            write_part(shared.train, folder / TRAIN, rows, recipe.seed)
    write_json(folder / SETUP, setup.to_dict())
    write_json(folder / RECIPE, fingerprint)


def write_part(corpus: Corpus, folder: Path, rows: int, seed: int) -> None:
    """A corpus of `rows` rows, of each file in proportion, one at least."""
    chosen = choose(corpus.files, rows, seed)
    columns = range(len(corpus.ids))
    with replacing_folder(folder) as partial, contextlib.ExitStack() as stack:
        writer = CorpusWriter(partial, len(columns), stack)
        for row in np.concatenate(chosen):
            writer.add(tuple(corpus.row(int(row), column) for column in columns))
        writer.finish([len(part) for part in chosen], corpus.skipped)


def choose(files: Sequence[int], rows: int, seed: int) -> list[Rows]:
    """Row numbers of each file, in order: the first ones of an order that only the seed decides."""
    chosen, first, total = [], 0, sum(files)
    for number, count in enumerate(files):
        order = np.random.default_rng((seed, number)).permutation(count)
        share = min(count, max(1, round(rows * count / total)))
        chosen.append(np.sort(order[:share]) + first)
        first += count
    return chosen
