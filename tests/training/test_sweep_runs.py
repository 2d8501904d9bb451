from __future__ import annotations

import numpy as np
import pytest

from seq2edge.errors import TrainingError
from seq2edge.training.recipe import (
    CheckRecipe,
    DataRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Recipe,
)
from seq2edge.training.sweep_runs import Budget, choose, with_budget, with_size


def recipe(steps: int = 100, every: int = 30) -> Recipe:
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
    model = with_size(recipe(), "112x3").model
    assert (model.width, model.hidden, model.heads) == (112, 448, 2)
    assert (model.encoder_layers, model.decoder_layers, model.norm) == (3, 3, "rms")
    assert with_size(recipe(), "8x1").model.heads == 1
    preset = with_size(recipe(), "base").model
    assert (preset.preset, preset.width, preset.encoder_layers) == ("base", 0, 0)


@pytest.mark.parametrize("size", ["huge", "0x2", "64", "64x", "64x0", "-8x1", ""])
def test_bad_sizes(size: str) -> None:
    """What is no size is named with what would be one."""
    with pytest.raises(TrainingError, match=r"sizes: .* is neither WIDTHxLAYERS, .*tiny, small"):
        with_size(recipe(), size)


def test_budget() -> None:
    """Steps are whole checks; operations are 6 x parameters x tokens, never more."""
    changed = with_budget(recipe(every=30), Budget(), 1000, 10.0)
    assert (changed.optimizer.steps, changed.check.every) == (100, 25)
    changed = with_budget(recipe(), Budget(steps=7), 1000, 10.0)
    assert (changed.optimizer.steps, changed.check.every) == (7, 7)
    flops = 6 * 1000 * 10.0 * 60.5
    changed = with_budget(recipe(), Budget(flops=flops), 1000, 10.0)
    assert (changed.optimizer.steps, changed.check.every) == (60, 30)
    with pytest.raises(TrainingError, match=r"flops: 1.0e\+03 are less than one step of 1,000"):
        with_budget(recipe(), Budget(flops=1e3), 1000, 10.0)


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
