"""The batches that Lightning gets of a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import small_recipes
import torch

from seq2edge.training.batches import IGNORED, Batch, Plan
from seq2edge.training.data_module import RunDataModule
from seq2edge.training.run_folder import Run, prepare_run


def data_module(run: Run, *, step: int = 0, rank: int = 0, processes: int = 1) -> RunDataModule:
    """Batches of at most 300 tokens for one process of a training that has reached `step`."""
    plan = Plan(corpus=run.train, tokens=300, seed=run.recipe.seed)
    data = RunDataModule(run, plan, accumulate=1, workers=0)
    trainer = SimpleNamespace(global_step=step, global_rank=rank, world_size=processes)
    data.trainer = trainer  # type: ignore[assignment]
    return data


def targets(batches: list[Batch]) -> int:
    """Target tokens of batches that count."""
    return sum(int((b["labels"] != IGNORED).sum()) for b in batches if b["scale"] > 0)


def test_validation_reads_every_row_once_in_all_processes_together(tmp_path: Path) -> None:
    """A process whose share of a batch is empty reads a row that does not count."""
    run = prepare_run(small_recipes.spelling(tmp_path), tmp_path / "run", lambda _: None)
    assert run.validation is not None
    shares = [list(data_module(run, rank=rank, processes=2).val_dataloader()) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1])
    assert sum(map(targets, shares)) == len(run.validation.ids[1])


def test_training_batches_begin_at_the_step_that_was_reached(tmp_path: Path) -> None:
    """The recipe has 30 steps: after 20 of them the last ten are left."""
    run = prepare_run(small_recipes.spelling(tmp_path), tmp_path / "run", lambda _: None)
    whole = list(data_module(run).train_dataloader())
    rest = list(data_module(run, step=20).train_dataloader())
    assert (len(whole), len(rest)) == (30, 10)
    for one, other in zip(whole[20:], rest, strict=True):
        assert torch.equal(one["source"], other["source"])


def test_without_validation_files_there_are_no_batches(tmp_path: Path) -> None:
    """Lightning then checks nothing."""
    recipe = small_recipes.spelling(tmp_path, data__validation=[])
    run = prepare_run(recipe, tmp_path / "run", lambda _: None)
    assert data_module(run).val_dataloader() == []
