from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from seq2edge.cli import main
from seq2edge.errors import TrainingError
from seq2edge.training import scaling
from seq2edge.training import sweep as sweeping
from seq2edge.training.corpus import open_corpus
from seq2edge.training.recipe import (
    CheckRecipe,
    DataRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Recipe,
    read_recipe,
)
from seq2edge.training.sweep import Budget, choose, sweep, with_budget, with_size
from seq2edge.training.train import Machine

SIZES, ROWS, CPU = ("8x1", "16x1", "24x1"), (20, 40, 0), Machine(device="cpu")
RECIPE = """
objective = "seq2seq"
data = { train = ["train.tsv"], validation = ["validation.tsv"] }
tokenizer = { kind = "characters", size = 30 }
model = { max_positions = 16 }
optimizer = { steps = 4, batch_tokens = 300, warmup = 1 }
check = { every = 2 }
"""


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "REPEATS", 20)
    for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of eighty sorted rows."""
    made = tmp_path_factory.mktemp("task")
    rng = np.random.default_rng(1)
    for name, count in (("train", 80), ("validation", 10)):
        words = sorted("".join(rng.choice(list("abcdef"), 5)) for _ in range(count))
        rows = [f"{word}\t{word[::-1]}\n" for word in words]
        (made / f"{name}.tsv").write_text("".join(rows), encoding="utf-8")
    (made / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return made


@pytest.fixture
def recipe(task: Path) -> Recipe:
    """As it is read."""
    return read_recipe(task / "recipe.toml")


def test_sweep(task: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every size meets every amount with one vocabulary; what is done is not done again."""
    folder, trained = task / "sweep", []
    train = sweeping.train

    def count(changed: Recipe, place: Path, **options: Any) -> Any:
        trained.append((place.name, options["resume"]))
        return train(changed, place, **options)

    monkeypatch.setattr(sweeping, "train", count)
    found = sweep(recipe, folder, sizes=SIZES, rows=ROWS, machine=CPU)
    assert [(run.size, run.rows) for run in found.runs] == [
        (size, rows) for rows in (20, 40, 80) for size in SIZES
    ]
    assert [name for name, _ in trained] == [f"{run.size}-{run.rows}" for run in found.runs]
    assert found.fit is not None
    shared = (folder / "shared" / "tokenizer" / "tokenizer.json").read_text()
    for run in found.runs:
        place = folder / f"{run.size}-{run.rows}"
        assert (place / "tokenizer" / "tokenizer.json").read_text() == shared
        assert run.steps == 4
        assert (
            run.loss == json.loads((place / "model/training.json").read_text())["validation_loss"]
        )
    few = open_corpus(folder / "8x1-20" / "train")
    every = open_corpus(folder / "shared" / "train")
    rows = {tuple(every.row(i)) for i in range(60, 80)}
    assert {tuple(few.row(i)) for i in range(20)} & rows  # not the first rows of a sorted file
    (folder / "16x1-40" / "model" / "training.json").unlink()
    trained.clear()
    again = sweep(recipe, folder, sizes=SIZES, rows=ROWS, machine=CPU)
    assert trained == [("16x1-40", True)]
    assert [run.loss for run in again.runs] == [run.loss for run in found.runs]
    values = json.loads((folder / "sweep.json").read_text())
    assert values["fit"]["alpha"].keys() == {"value", "low", "high", "known"}
    assert len(values["runs"]) == 9
    with pytest.raises(TrainingError, match="8x1-20: was run with another budget or recipe"):
        sweep(recipe, folder, sizes=SIZES, rows=ROWS, machine=CPU, budget=Budget(steps=6))


def test_refused(tmp_path: Path, recipe: Recipe) -> None:
    """What cannot be swept is refused before anything is trained."""
    for match, changes in (
        ("sizes: 'x' is neither", {"sizes": ["x"]}),
        ("sizes: '8x1, 8x1', name each one once", {"sizes": ["8x1", "8x1"]}),
        ("rows: '', name each one once", {"rows": []}),
        ("rows: 81 asked for, the recipe's files have 80", {"rows": [81]}),
        ("budget: steps and flops contradict", {"budget": Budget(steps=1, flops=1e9)}),
        ("flops: 1.0e.00 are less than one step of", {"budget": Budget(flops=1.0)}),
    ):
        arguments: dict[str, Any] = {"sizes": ["8x1"], "rows": [20], **changes}
        with pytest.raises(TrainingError, match=match):
            sweep(recipe, tmp_path / "sweep", machine=CPU, **arguments)
    assert not list(tmp_path.glob("sweep/*/last.ckpt"))


def test_unchecked(task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses need validation data, sizes a new model, and torchrun is for single trainings."""
    unchecked = read_recipe(task / "recipe.toml", {"data.validation": []})
    with pytest.raises(TrainingError, match=r"data.validation: names no file, a sweep compares"):
        sweep(unchecked, tmp_path / "a", sizes=["8x1"], rows=[0])
    started = read_recipe(task / "recipe.toml", {"start": "somewhere"})
    with pytest.raises(TrainingError, match="start: has one size, a sweep begins every model"):
        sweep(started, tmp_path / "b", sizes=["8x1"], rows=[0])
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(TrainingError, match="sweep: starts its processes itself"):
        sweep(read_recipe(task / "recipe.toml"), tmp_path / "c", sizes=["8x1"], rows=[0])


def test_command(task: Path) -> None:
    """The command prints a table and says why too few runs give no law; its plot is a file."""
    output = task / "two"
    arguments = ["sweep", str(task / "recipe.toml"), "-o", str(output), "--sizes", "8x1,16x1"]
    done = CliRunner().invoke(main, [*arguments, "--device", "cpu", "--steps", "2"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split() == (
        "size rows parameters and tables tokens seen steps seconds loss".split()
    )
    assert [line.split()[:2] for line in lines[1:3]] == [["8x1", "80"], ["16x1", "80"]]
    assert lines[3].startswith("no fit: scaling law: 2 runs of 2 sizes and 1 amounts of data")
    assert lines[4] == str(output / "sweep.png")
    assert (output / "sweep.png").read_bytes().startswith(b"\x89PNG")
    refused = CliRunner().invoke(main, [*arguments, "--rows", "10,many"])
    assert refused.exit_code == 2
    assert "'many' is no number of rows" in refused.output


def bare_recipe(steps: int = 100, every: int = 30) -> Recipe:
    """A recipe without its files."""
    return Recipe(
        objective="seq2seq",
        data=DataRecipe(train=("a.tsv",)),
        optimizer=OptimizerRecipe(steps=steps),
        model=ModelRecipe(width=99, hidden=7, heads=9, encoder_layers=5, norm="rms"),
        check=CheckRecipe(every=every),
    )


def test_sizes() -> None:
    """A size replaces the recipe's sizes and leaves the kind of norm; heads divide the width."""
    model = with_size(bare_recipe(), "112x3").model
    assert (model.width, model.hidden, model.heads) == (112, 448, 2)
    assert (model.encoder_layers, model.decoder_layers, model.norm) == (3, 3, "rms")
    assert with_size(bare_recipe(), "8x1").model.heads == 1
    preset = with_size(bare_recipe(), "base").model
    assert (preset.preset, preset.width, preset.encoder_layers) == ("base", 0, 0)


@pytest.mark.parametrize("size", ["huge", "0x2", "64", "64x", "64x0", "-8x1", ""])
def test_bad_sizes(size: str) -> None:
    """What is no size is named with what would be one."""
    with pytest.raises(TrainingError, match=r"sizes: .* is neither WIDTHxLAYERS, .*tiny, small"):
        with_size(bare_recipe(), size)


def test_budget() -> None:
    """Steps are whole checks; operations are 6 x parameters x tokens, never more."""
    changed = with_budget(bare_recipe(every=30), Budget(), 1000, 10.0)
    assert (changed.optimizer.steps, changed.check.every) == (100, 25)
    changed = with_budget(bare_recipe(), Budget(steps=7), 1000, 10.0)
    assert (changed.optimizer.steps, changed.check.every) == (7, 7)
    flops = 6 * 1000 * 10.0 * 60.5
    changed = with_budget(bare_recipe(), Budget(flops=flops), 1000, 10.0)
    assert (changed.optimizer.steps, changed.check.every) == (60, 30)
    with pytest.raises(TrainingError, match=r"flops: 1.0e\+03 are less than one step of 1,000"):
        with_budget(bare_recipe(), Budget(flops=1e3), 1000, 10.0)


def test_parts() -> None:
    """Every file gives its share of the rows, and a smaller part is in every larger one."""
    small, large = choose((100, 300), 20, 1), choose((100, 300), 200, 1)
    assert [len(part) for part in small] == [5, 15]
    assert [len(part) for part in large] == [50, 150]
    for few, many in zip(small, large, strict=True):
        assert set(few) < set(many)
        assert (np.diff(many) > 0).all()
    assert min(large[1]) >= 100
    assert [len(part) for part in choose((1, 300), 3, 1)] == [1, 3]
    assert set(choose((100,), 20, 2)[0]) != set(choose((100,), 20, 1)[0])
