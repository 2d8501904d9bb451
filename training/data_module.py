"""The batches of a run as Lightning asks for them."""

from __future__ import annotations

from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from seq2edge.training.batches import Batch, Plan, StepBatches, StepPlan
from seq2edge.training.corpus import Corpus
from seq2edge.training.run_folder import Run


class RunDataModule(L.LightningDataModule):
    """Training batches by a plan, in `accumulate` parts each, and every validation row once."""

    def __init__(self, run: Run, plan: StepPlan, *, accumulate: int, workers: int) -> None:
        super().__init__()
        self.run, self.plan = run, plan
        self.accumulate, self.workers = accumulate, workers

    def train_dataloader(self) -> DataLoader[Batch]:
        """From the step that the training has reached."""
        assert self.trainer is not None
        return self._loader(
            self.run.train,
            self.plan,
            first=self.trainer.global_step,
            steps=self.run.recipe.optimizer.steps,
            accumulate=self.accumulate,
        )

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Every validation row once."""
        corpus, recipe = self.run.validation, self.run.recipe
        if corpus is None:
            return []
        plan = Plan(corpus=corpus, tokens=recipe.optimizer.batch_tokens, seed=recipe.seed)
        steps = sum(1 for _ in plan.epoch(0))
        return self._loader(corpus, plan, first=0, steps=steps, accumulate=1)

    def _loader(
        self, corpus: Corpus, plan: StepPlan, *, first: int, steps: int, accumulate: int
    ) -> DataLoader[Batch]:
        """Steps `first` to `steps` of a plan over a corpus, this process's share."""
        assert self.trainer is not None
        batches = StepBatches(
            plan,
            self.run.collator(corpus),
            first=first,
            steps=steps,
            accumulate=accumulate,
            rank=self.trainer.global_rank,
            processes=self.trainer.world_size,
        )
        return DataLoader(batches, batch_size=None, num_workers=self.workers)
