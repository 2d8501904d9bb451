"""Which rows are learnt from at which step: a plan that depends on seed and position alone.

Rows are shuffled for every epoch, sorted by length inside pools, cut into batches of equal padded
size, and the batches shuffled again. Step n has the same rows in every process and after every
resume; a process takes its share of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.training.corpus import Corpus

Rows: TypeAlias = NDArray[np.int64]  # row numbers of one batch
POOL = 50  # batches whose rows are sorted together


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """`tokens` bounds rows times (longest source + longest target) of a batch."""

    corpus: Corpus
    tokens: int
    seed: int
    weights: tuple[float, ...] = ()

    def steps(self, start: int = 0) -> Iterator[tuple[int, Rows]]:
        """Epoch and rows of step `start`, `start` + 1, ... without end."""
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
        sizes = self._sizes()
        pool = max(1, POOL * self.tokens // max(1, int(sizes[rows[:1000]].mean())))
        for start in range(0, len(rows), pool):
            part = rows[start : start + pool]
            batches = cut(part[np.argsort(sizes[part], kind="stable")], self.corpus, self.tokens)
            for index in rng.permutation(len(batches)):
                yield batches[index]

    def _sizes(self) -> NDArray[np.int64]:
        columns = range(len(self.corpus.ids))
        sizes: Rows = np.sum([self.corpus.lengths(column) for column in columns], axis=0)
        return sizes

    def _drawn(self, rng: np.random.Generator) -> Rows:
        """All rows in random order; a file's rows as often as its weight says."""
        parts, first = [], 0
        for number, count in enumerate(self.corpus.files):
            weight = self.weights[number] if self.weights else 1.0
            wanted = max(1, round(weight * count))
            whole, rest = divmod(wanted, count)
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
