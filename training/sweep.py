"""Many trainings of one recipe: sizes of the model times amounts of data, and the law they follow.

The folder holds `shared/` (tokenizer and corpora), an ordinary run folder for every size and
amount (`64x2-10000/`), and at the end `sweep.json` and `sweep.png`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from seq2edge.bundle.manifest import utc_now
from seq2edge.errors import TrainingError
from seq2edge.training.presets import count_parameters
from seq2edge.training.processes import started_by_launcher
from seq2edge.training.recipe import Recipe
from seq2edge.training.run_folder import (
    RECIPE,
    open_run,
    prepare,
    read_json,
    run_fingerprint,
    write_json,
)
from seq2edge.training.scaling import Fit, Observation, fit_law
from seq2edge.training.sweep_runs import (
    Budget,
    dims_of,
    prepare_run_folder,
    step_tokens,
    with_budget,
    with_size,
)
from seq2edge.training.train import LAST, MODEL, Machine, train

Say: TypeAlias = Callable[[str], None]
FREE, HERE = Budget(), Machine()
SHARED, RESULT, PLOT = "shared", "sweep.json", "sweep.png"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
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
    runs: tuple[Run, ...]
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
    prepare(recipe, folder / SHARED, say)
    shared = open_run(folder / SHARED)
    for changed in recipes:
        dims_of(changed, shared.facts)
    amounts = _amounts(rows, len(shared.train))
    runs: list[Run] = []
    for amount in amounts:
        for size, changed in zip(sizes, recipes, strict=True):
            say(f"run {len(runs) + 1} of {len(sizes) * len(amounts)}: {size}, {amount:,} rows")
            run = _run(changed, folder, size, amount, budget, machine, quiet=quiet)
            say(f"  validation loss {run.loss:.4f}, {run.steps:,} steps, {run.seconds} s")
            runs.append(run)
    done = conclude(budget, runs)
    write_json(folder / RESULT, to_dict(done, recipe))
    return done


def conclude(budget: Budget, runs: Sequence[Run]) -> Sweep:
    """The law of these runs, or why there is none."""
    points = [
        Observation(parameters=run.parameters, tokens=run.counted, loss=run.loss) for run in runs
    ]
    try:
        return Sweep(budget=budget, runs=tuple(runs), fit=fit_law(points), refused="")
    except TrainingError as error:
        return Sweep(budget=budget, runs=tuple(runs), fit=None, refused=str(error))


def to_dict(found: Sweep, recipe: Recipe) -> dict[str, Any]:
    """Plain JSON values: what `sweep.json` holds."""
    values = dataclasses.asdict(dataclasses.replace(found, fit=None))
    if found.fit is not None:
        values["fit"] = dataclasses.asdict(dataclasses.replace(found.fit, repeats=()))
        del values["fit"]["repeats"]
    return {**values, "recipe": recipe.to_dict(), "created": utc_now()}


def _run(
    recipe: Recipe,
    folder: Path,
    size: str,
    rows: int,
    budget: Budget,
    machine: Machine,
    *,
    quiet: bool,
) -> Run:
    """One run, unless it is done."""
    place = folder / f"{size}-{rows}"
    shared = open_run(folder / SHARED)
    everything, inner = count_parameters(dims_of(recipe, shared.facts))
    each = step_tokens(shared.train, recipe)
    recipe = with_budget(recipe, budget, inner, each)
    if (place / LAST).is_file() and read_json(place / RECIPE) != run_fingerprint(recipe):
        raise TrainingError(f"{place}: was run with another budget or recipe, choose a new folder")
    if not (place / MODEL / "training.json").is_file():
        prepare_run_folder(recipe, folder / SHARED, place, rows)
        train(recipe, place, resume=(place / LAST).is_file(), machine=machine, quiet=quiet)
    return _read(place, size, everything, inner, each)


def _read(place: Path, size: str, everything: int, inner: int, step: float) -> Run:
    card = read_json(place / MODEL / "training.json")
    return Run(
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
