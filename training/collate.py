"""What is learnt from a row: the tensors of a batch, for every objective."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from seq2edge.training import denoising
from seq2edge.training.batches import Plan, Rows
from seq2edge.training.corpus import Corpus
from seq2edge.training.recipe import DenoiseRecipe, Objective

IGNORED = -100  # a label that teaches nothing
Example: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64]]
Batch: TypeAlias = dict[str, Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collator:
    """Makes batches of rows.

    `start` begins the decoder's input, `end` ends a text, `special` are the sentinels of span
    corruption, or the one mask of infilling.
    """

    objective: Objective
    corpus: Corpus
    start: int
    end: int
    special: tuple[int, ...] = ()
    denoise: DenoiseRecipe
    seed: int = 0

    def example(self, row: int, epoch: int) -> Example:
        """Source and target ids of a row; corruption is drawn anew in every epoch."""
        ids = self.corpus.row(row)
        if self.objective in ("seq2seq", "classify"):
            return ids, self.corpus.row(row, 1)
        if self.objective == "causal":
            return ids[:-1], ids[1:]
        rng = np.random.default_rng((self.seed, epoch, row))
        density, span = self.denoise.density, self.denoise.span
        end = np.array([self.end])
        if self.objective == "infill":
            source = denoising.infill(ids, rng, density=density, span=span, mask=self.special[0])
            return np.concatenate([source, end]), np.concatenate([ids, end])
        source, target = denoising.corrupt_spans(
            ids, rng, density=density, span=span, sentinels=np.array(self.special)
        )
        return np.concatenate([source, end]), np.concatenate([target, end])

    def collate(self, examples: Sequence[Example], scale: float) -> Batch:
        """Padded tensors; `scale` makes the mean over a step of the sum over these rows."""
        sources, targets = [e[0] for e in examples], [e[1] for e in examples]
        batch = {"scale": torch.tensor(scale, dtype=torch.float32)}
        if self.objective == "causal":
            return {**batch, "tokens": _pad(sources, 0), "labels": _pad(targets, IGNORED)}
        batch["source"] = _pad(sources, 0)
        batch["source_length"] = torch.tensor([len(ids) for ids in sources])
        if self.objective == "classify":
            return {**batch, "labels": torch.tensor([int(ids[0]) for ids in targets])}
        shifted = [np.concatenate([[self.start], ids[:-1]]) for ids in targets]
        return {**batch, "tokens": _pad(shifted, 0), "labels": _pad(targets, IGNORED)}


def _pad(rows: Sequence[NDArray[np.int64]], value: int) -> Tensor:
    """(rows, longest), filled up on the right."""
    out = torch.full((len(rows), max(map(len, rows))), value, dtype=torch.int64)
    for i, ids in enumerate(rows):
        out[i, : len(ids)] = torch.from_numpy(np.ascontiguousarray(ids))
    return out


class StepBatches(IterableDataset[Batch]):
    """The batches of steps `first` to `steps`, one process's share, `parts` pieces of each step.

    Every process and part reads each `parts`-th row of a step. Worker processes of a loader take
    turns, so that the order stays.
    """

    def __init__(
        self, plan: Plan, collator: Collator, *, first: int, steps: int, accumulate: int
    ) -> None:
        self.plan, self.collator = plan, collator
        self.first, self.steps, self.accumulate = first, steps, accumulate
        self.rank, self.processes = 0, 1

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        for turn, (epoch, rows, part) in enumerate(self._parts()):
            if turn % count == number:
                yield self.step_batch(epoch, rows, part)

    def _parts(self) -> Iterator[tuple[int, Rows, int]]:
        planned = self.plan.steps(self.first)
        for _ in range(self.first, self.steps):
            epoch, rows = next(planned)
            for piece in range(self.accumulate):
                yield epoch, rows, piece * self.processes + self.rank

    def step_batch(self, epoch: int, rows: Rows, part: int) -> Batch:
        """Part `part` of a step's batch."""
        parts = self.accumulate * self.processes
        total = self._target_tokens(rows, epoch)
        mine = rows[part::parts]
        if not len(mine):  # a step of fewer rows than parts: one row that does not count
            return self.collator.collate([self.collator.example(int(rows[0]), epoch)], 0.0)
        examples = [self.collator.example(int(row), epoch) for row in mine]
        return self.collator.collate(examples, parts / total)

    def _target_tokens(self, rows: Rows, epoch: int) -> int:
        """Target tokens of the whole step (rows, where a row has one label)."""
        collator = self.collator
        if collator.objective in ("seq2seq", "classify"):
            return int(collator.corpus.lengths_of(rows, 1).sum())
        if collator.objective == "causal":
            return int((collator.corpus.lengths_of(rows) - 1).sum())
        return sum(len(collator.example(int(row), epoch)[1]) for row in rows)
