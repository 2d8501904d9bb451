"""Losses and the schedule of a training."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_recipes
import torch

from seq2edge.training.initialise import new_model
from seq2edge.training.recipe import OptimizerRecipe
from seq2edge.training.run_folder import prepare_run
from seq2edge.training.training_module import schedule, target_logits, target_losses


def test_losses_are_negative_log_likelihoods_of_the_targets(tmp_path: Path) -> None:
    """One for every label that is no padding, in the order of the rows."""
    run = prepare_run(small_recipes.spelling(tmp_path), tmp_path / "run", lambda _: None)
    model, collator = new_model(run.setup.dims, 0).eval(), run.collator(run.train)
    examples = [collator.example(row, 0) for row in range(3)]
    batch = collator.collate(examples, 1.0)
    with torch.no_grad():
        logits, losses = target_logits(model, batch), target_losses(model, batch)
    targets = torch.cat([torch.from_numpy(target) for _, target in examples])
    expected = -logits.log_softmax(-1)[torch.arange(len(targets)), targets]
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize(
    ("name", "middle", "last"),
    [
        ("cosine", 0.5, 0.0),
        ("linear", 0.5, 0.0),
        ("inverse_sqrt", (10 / 61) ** 0.5, (10 / 111) ** 0.5),
        ("constant", 1.0, 1.0),
    ],
)
def test_a_schedule_warms_up_and_then_falls_as_it_is_named(
    name: str, middle: float, last: float
) -> None:
    """Ten steps up to the whole rate; values in the middle and at the end of a hundred more."""
    part = schedule(OptimizerRecipe(steps=110, warmup=10, schedule=name))
    assert [part(step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert part(60) == pytest.approx(middle)
    assert part(110) == pytest.approx(last)
