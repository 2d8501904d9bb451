"""The batches of a training: which rows a step has, and what tensors they become.

A plan depends on seed and position alone. Rows are shuffled for every epoch, sorted by length
inside pools, cut into batches of equal padded size, and the batches shuffled again. Step n has the
same rows in every process and after every resume; a process takes its share of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from seq2edge.training import denoising
from seq2edge.training.corpus import Corpus
from seq2edge.training.recipe import DenoiseRecipe, Objective
from seq2edge.training.train_tokenizer import TokenIds

Rows: TypeAlias = NDArray[np.int64]  # row numbers of one batch
Example: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64]]  # ids of source and target
Batch: TypeAlias = dict[str, Tensor]
POOL = 50  # batches whose rows are sorted together
IGNORED = -100  # a label that does not count


class StepPlan(Protocol):
    """Which rows a step has."""

    def steps(self, start: int = 0) -> Iterator[tuple[int, Rows]]:
        """Epoch and rows, perhaps none, of step `start`, `start` + 1, ... without end."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Every row once in an epoch, or as often as its file's weight says.

    `tokens` bounds rows times (longest source + longest target) of a batch.
    """

    corpus: Corpus
    tokens: int
    seed: int
    weights: tuple[float, ...] = ()

    def steps(self, start: int = 0) -> Iterator[tuple[int, Rows]]:
        """See `StepPlan`."""
        step, epoch = 0, 0
        while True:
            for rows in self.epoch(epoch):
                if step >= start:
                    yield epoch, rows
                step += 1
            epoch += 1

    def epoch(self, epoch: int) -> Iterator[Rows]:
        """The batches of one epoch, in the order in which they are learnt."""
        rng = np.random.default_rng((self.seed, epoch))
        rows = self._drawn(rng)
        columns = range(len(self.corpus.ids))
        sizes: Rows = np.sum([self.corpus.lengths(column) for column in columns], axis=0)
        pool = max(1, POOL * self.tokens // max(1, int(sizes[rows[:1000]].mean())))
        for start in range(0, len(rows), pool):
            part = rows[start : start + pool]
            batches = cut(part[np.argsort(sizes[part], kind="stable")], self.corpus, self.tokens)
            for index in rng.permutation(len(batches)):
                yield batches[index]

    def _drawn(self, rng: np.random.Generator) -> Rows:
        """All rows in random order; a file's rows as often as its weight says."""
        parts, first = [], 0
        for number, count in enumerate(self.corpus.files):
            weight = self.weights[number] if self.weights else 1.0
            whole, rest = divmod(max(1, round(weight * count)), count)
            times = [np.arange(count)] * whole + [rng.permutation(count)[:rest]]
            parts.append(np.concatenate(times) + first)
            first += count
        return rng.permutation(np.concatenate(parts))


def cut(rows: Rows, corpus: Corpus, tokens: int) -> list[Rows]:
    """Neighbours as batches that stay below `tokens` when padded; a longer row stands alone."""
    lengths = [corpus.lengths(column)[rows] for column in range(len(corpus.ids))]
    batches, start = [], 0
    longest = [0] * len(lengths)
    for i in range(len(rows)):
        grown = [max(most, int(column[i])) for most, column in zip(longest, lengths, strict=True)]
        if i > start and (i + 1 - start) * sum(grown) > tokens:
            batches.append(rows[start:i])
            start, grown = i, [int(column[i]) for column in lengths]
        longest = grown
    if start < len(rows):
        batches.append(rows[start:])
    return batches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collator:
    """Makes the examples of rows, and batches of them, for every objective."""

    objective: Objective
    corpus: Corpus
    ids: TokenIds
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
        density, span, extra = self.denoise.density, self.denoise.span, self.ids.sentinel_ids
        end = np.array([self.ids.eos_id])
        if self.objective == "infill":
            source = denoising.infill(ids, rng, density=density, span=span, mask=extra[0])
            return np.concatenate([source, end]), np.concatenate([ids, end])
        source, target = denoising.corrupt_spans(
            ids, rng, density=density, span=span, sentinels=np.array(extra)
        )
        return np.concatenate([source, end]), np.concatenate([target, end])

    def collate(self, examples: Sequence[Example], scale: float) -> Batch:
        """Padded tensors (rows, longest) and source lengths (rows,).

        `scale` makes the mean over a step of the sum over these rows.
        """
        sources, targets = [source for source, _ in examples], [target for _, target in examples]
        batch = {"scale": torch.tensor(scale, dtype=torch.float32)}
        if self.objective == "causal":
            return {**batch, "tokens": _pad(sources, 0), "labels": _pad(targets, IGNORED)}
        batch["source"] = _pad(sources, 0)
        batch["source_length"] = torch.tensor([len(ids) for ids in sources])
        if self.objective == "classify":
            return {**batch, "labels": torch.tensor([int(ids[0]) for ids in targets])}
        start = self.ids.decoder_start_id
        shifted = [np.concatenate([[start], ids[:-1]]) for ids in targets]
        return {**batch, "tokens": _pad(shifted, 0), "labels": _pad(targets, IGNORED)}

    def target_tokens(self, rows: Rows, epoch: int) -> int:
        """Target tokens of these rows (rows, where a row has one label)."""
        if self.objective in ("seq2seq", "classify"):
            return int(self.corpus.lengths_of(rows, 1).sum())
        if self.objective == "causal":
            return int((self.corpus.lengths_of(rows) - 1).sum())
        return sum(len(self.example(int(row), epoch)[1]) for row in rows)


def _pad(rows: Sequence[NDArray[np.int64]], value: int) -> Tensor:
    """(rows, longest), filled up on the right."""
    out = torch.full((len(rows), max(map(len, rows))), value, dtype=torch.int64)
    for i, ids in enumerate(rows):
        out[i, : len(ids)] = torch.from_numpy(np.ascontiguousarray(ids))
    return out


class StepBatches(IterableDataset[Batch]):
    """The batches of steps `first` to `steps`, each in parts of which one process reads its share.

    Process `rank` of `processes` and part of `accumulate` both count: together they read every
    row of a step once. Worker processes of a loader take turns, so that the order stays.
    """

    def __init__(
        self,
        plan: StepPlan,
        collator: Collator,
        *,
        first: int,
        steps: int,
        accumulate: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.plan, self.collator = plan, collator
        self.first, self.steps, self.accumulate = first, steps, accumulate
        self.rank, self.processes = rank, processes

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        planned = self.plan.steps(self.first)
        turn = 0
        for _ in range(self.first, self.steps):
            epoch, rows = next(planned)
            for piece in range(self.accumulate):
                if turn % workers == number:
                    yield self.step_batch(epoch, rows, piece * self.processes + self.rank)
                turn += 1

    def step_batch(self, epoch: int, rows: Rows, part: int) -> Batch:
        """Part `part` of a step's batch; one row that does not count where the part has none."""
        parts = self.accumulate * self.processes
        mine = rows[part::parts]
        if not len(mine):
            row = int(rows[0]) if len(rows) else 0
            return self.collator.collate([self.collator.example(row, epoch)], 0.0)
        examples = [self.collator.example(int(row), epoch) for row in mine]
        return self.collator.collate(examples, parts / self.collator.target_tokens(rows, epoch))
