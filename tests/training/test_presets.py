from __future__ import annotations

import pytest

from seq2edge.training import presets
from seq2edge.training.presets import PRESETS, make_dims
from seq2edge.training.recipe import (
    DataRecipe,
    ModelRecipe,
    Objective,
    OptimizerRecipe,
    Recipe,
)
from seq2edge.training.sweep_runs import count_parameters


@pytest.mark.parametrize(
    ("objective", "told"),
    [("seq2seq", "2.0, 9.6, 48.5 and\n185"), ("causal", "1.5, 5.3, 23.1 and 84")],
)
def test_parameters(objective: Objective, told: str) -> None:
    """The presets have the parameters that the module tells."""
    counts = []
    for preset in PRESETS:
        recipe = Recipe(
            objective=objective,
            data=DataRecipe(train=("a.txt",)),
            optimizer=OptimizerRecipe(steps=1),
            model=ModelRecipe(preset=preset),  # type: ignore[arg-type]
        )
        counts.append(count_parameters(make_dims(recipe, vocab=8000))[0] / 1e6)
    numbers = [float(word) for word in told.replace(",", " ").replace("and", " ").split()]
    for count, number in zip(counts, numbers, strict=True):
        assert count == pytest.approx(number, abs=0.5 if number > 80 else 0.05)
    assert told in str(presets.__doc__)
