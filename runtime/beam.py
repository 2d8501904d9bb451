"""Bookkeeping of beam search: which rows go on, which sequences are finished, when to stop.

The rules (candidates per step, when a finished sequence counts, the three kinds of early stopping)
are those of transformers, so that tokens and scores are the same.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.backend import Answer, Candidates, Logits, all_logits
from seq2edge.runtime.candidates import ScoreBuffer, TopCandidates
from seq2edge.runtime.filters import make_filters, may_increase_scores
from seq2edge.runtime.likelihood import log_likelihoods, log_softmax
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.sequences import GeneratedSequence, History

CLOSED = np.float32(-1e9)  # the score of what must not go on
BLOCK = 64

# Scores, parents and tokens of the best candidates, each (batch, kept), best first.
Best: TypeAlias = "tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]"


class BeamSearch:
    """The state of all inputs' beams; `choose` is called once a step."""

    def __init__(self, history: History, options: DecodeOptions) -> None:
        self.history, self.options = history, options
        self.filters = make_filters(options)
        batch = len(history.tokens) // options.num_beams
        self.beams = options.num_beams
        self.ends = frozenset(options.eos_token_id)
        # Of each input so many candidates are looked at: if every end token is among the best of
        # every beam, there still are enough others for all beams to go on.
        self.kept = max(2, 1 + len(options.eos_token_id)) * self.beams
        # All beams of an input begin alike: only the first may be continued.
        self.scores = np.full((batch, self.beams), CLOSED, dtype=np.float32)
        self.scores[:, 0] = 0.0
        self.finished: list[list[GeneratedSequence]] = [[] for _ in range(batch)]
        self.improvable = [True] * batch
        self.done = False
        self._buffer = ScoreBuffer()

    def choose(self, answer: Answer) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Parents and tokens (batch * beams,) to go on with; the answer has as many rows."""
        history, best = self.history, None
        if isinstance(answer, Candidates) and not may_increase_scores(self.options, history):
            best = self._best_from_candidates(TopCandidates(answer))
        if best is None:
            best = self._best_of_all(all_logits(answer))
        values, parents, tokens = best
        batch = len(self.finished)
        last = history.generated + 1 == history.limit
        stops = np.isin(tokens, tuple(self.ends)) | last
        for item in range(batch):
            self._collect(item, values[item], parents[item], tokens[item], stops[item])
        going_on = self._continue(values, stops)
        for item in range(batch):
            self._update_improvable(item)
        full = all(len(finished) == self.beams for finished in self.finished)
        stopped_early = full and self.options.early_stopping is True
        self.done = not any(self.improvable) or stopped_early or bool(stops.all())
        take = np.take_along_axis
        return take(parents, going_on, 1).reshape(-1), take(tokens, going_on, 1).reshape(-1)

    def _best_of_all(self, logits: Logits) -> Best:
        """The best of all tokens."""
        scores = log_softmax(logits)
        for filter_ in self.filters:
            filter_(self.history, scores)
        scores += self.scores.reshape(-1, 1)
        return self._top(scores, min(self.kept, scores[: self.beams].size))

    def _best_from_candidates(self, candidates: TopCandidates) -> Best | None:
        """The same among candidates; None where others may be better.

        Filters only lower scores here, so no other token of a beam can come above that beam's least
        candidate before them.
        """
        scores = log_likelihoods(candidates.logits, candidates.log_sum_exp)
        others = scores.min(axis=1) + self.scores.reshape(-1)
        scores = self._buffer.filtered(self.history, self.filters, candidates, scores)
        scores += self.scores.reshape(-1, 1)
        if scores[: self.beams].size < self.kept:
            return None
        values, parents, columns = self._top(scores, self.kept)
        if (values[:, -1] <= others.reshape(len(values), -1).max(axis=1)).any():
            return None
        return values, parents, candidates.ids[parents, columns]

    def _top(self, scores: Logits, kept: int) -> Best:
        """The best of (batch * beams, any) scores: values, their rows and their columns."""
        batch = len(self.finished)
        values, places = top_k(scores.reshape(batch, -1), kept)
        parents, columns = np.divmod(places, scores.shape[1])
        parents += np.arange(batch)[:, None] * self.beams
        return values, parents, columns

    def _collect(
        self,
        item: int,
        values: NDArray[np.float32],
        parents: NDArray[np.int64],
        tokens: NDArray[np.int64],
        stops: NDArray[np.bool_],
    ) -> None:
        """Keep the best candidates that end here; only the first `beams` of them count."""
        finished = self.finished[item]
        full = len(finished) == self.beams and self.options.early_stopping is True
        if full or not self.improvable[item]:
            return
        divisor = np.float32((self.history.generated + 1) ** self.options.length_penalty)
        for rank in np.flatnonzero(stops[: self.beams]):
            ids = (*self.history.new_tokens[parents[rank]].tolist(), int(tokens[rank]))
            score = float(values[rank] / divisor)
            finished.append(GeneratedSequence(ids=ids, score=score, finished=ids[-1] in self.ends))
        finished.sort(key=lambda sequence: -sequence.score)
        del finished[self.beams :]

    def _continue(self, values: NDArray[np.float32], stops: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Ranks (batch, beams) of the candidates that go on; sets their scores."""
        open_scores = np.where(stops, values + CLOSED, values)
        order = np.argsort(-open_scores, axis=1, kind="stable")[:, : self.beams]
        self.scores = np.take_along_axis(open_scores, order, axis=1)
        return order

    def _update_improvable(self, item: int) -> None:
        """Whether the best open beam may still beat the worst finished sequence."""
        finished, penalty = self.finished[item], self.options.length_penalty
        length = self.history.generated + 1
        if self.options.early_stopping == "never" and penalty > 0.0:
            length = self.history.limit
        best = self.scores[item, 0] / np.float32(length**penalty)
        worst = finished[-1].score if len(finished) == self.beams else CLOSED
        self.improvable[item] = self.improvable[item] and bool(best > worst)

    def results(self, item: int) -> list[GeneratedSequence]:
        """The best finished sequences of an input, best first."""
        return self.finished[item][: self.options.num_return_sequences]


def top_k(values: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k largest of each row (rows, width), largest first, with their places, both (rows, k).

    Of equal values the first wins, as in a stable sort of everything.
    """
    # Sorting a vocabulary can cost more than a small model's step. The k largest lie in the k
    # blocks of BLOCK columns with the largest maxima: a value of any other block has k such maxima
    # before it. So one pass finds the maxima, and only k blocks and the rest of the width are
    # sorted. Of blocks with equal maxima the first are taken: only so the first of equals wins.
    rows, width = values.shape
    blocks = width // BLOCK
    if blocks <= 2 * k:
        order = np.argsort(-values, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(values, order, axis=1), order
    maxima = values[:, : blocks * BLOCK].reshape(rows, blocks, BLOCK).max(axis=2)
    least = -np.partition(-maxima, k - 1, axis=1)[:, k - 1 : k]  # the k-th largest maximum
    above, equal = maxima > least, maxima == least
    equal &= equal.cumsum(axis=1) <= k - above.sum(axis=1, keepdims=True)
    best = np.nonzero(above | equal)[1].reshape(rows, k)  # blocks, in their own order
    inside = (best[:, :, None] * BLOCK + np.arange(BLOCK)).reshape(rows, -1)
    rest = np.broadcast_to(np.arange(blocks * BLOCK, width), (rows, width - blocks * BLOCK))
    places = np.concatenate((inside, rest), axis=1)
    candidates = np.take_along_axis(values, places, axis=1)
    order = np.argsort(-candidates, axis=1, kind="stable")[:, :k]
    take = np.take_along_axis
    return take(candidates, order, axis=1), take(places, order, axis=1)
