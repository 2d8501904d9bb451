"""Beam search of one request: which rows go on, which sequences are finished, when to stop.

The rules (candidates per step, when a finished sequence counts, the three kinds of early stopping)
are those of transformers, so that tokens and scores are the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.backend import Answer, Candidates, Logits, all_logits
from seq2edge.runtime.candidates import ForbiddenTokens, TopCandidates, largest_bounds
from seq2edge.runtime.filters import NEVER, only_forbids
from seq2edge.runtime.likelihood import checked, log_likelihoods, log_softmax, total_of
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.sampling import draw_several, remaining
from seq2edge.runtime.search import (
    ROOM,
    Choice,
    FilteredSearch,
    generator_of,
)
from seq2edge.runtime.sequences import FinishReason, GeneratedSequence, History
from seq2edge.runtime.token_records import SequenceRecords

FEW = 1024  # values that are sorted faster than looked through
MOST_FORBIDDEN = 0.9  # of the probability: what is left of more has too few digits
CLOSED = np.float32(-1e9)  # the score of what must not go on

# Scores, parents and tokens of the best candidates, each (kept,), best first.
Best: TypeAlias = "tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]"


class BeamSearch(FilteredSearch):
    """The state of a request's beams; see Search."""

    def __init__(self, history: History, options: DecodeOptions, **more: Any) -> None:
        """See FilteredSearch."""
        super().__init__(history, options, **more)
        self.beams = options.num_beams
        self.ends = options.eos_token_id
        # So many candidates are looked at: if every end token is among the best of every beam,
        # there still are enough others for all beams to go on.
        self.kept = max(2, 1 + len(options.eos_token_id)) * self.beams
        self._draws = generator_of(options, 0) if options.do_sample else None
        # What the filters take away is then shared out over all tokens.
        self._renormalises = options.renormalize_logits and bool(self.filters or options.do_sample)
        self._forbidden = ForbiddenTokens()
        if self._renormalises and not only_forbids(options):
            self._only_lowers = False
        self.wanted = self.kept + ROOM if self._only_lowers else 1
        # All beams begin alike: only the first may be continued.
        self.scores = np.full(self.beams, CLOSED, dtype=np.float32)
        self.scores[0] = 0.0
        self.finished: list[GeneratedSequence] = []
        self._improvable = True

    def choose(self, answer: Answer) -> Choice:
        """See Search."""
        best = None
        self._records.begin(answer)
        if isinstance(answer, Candidates) and self._candidates_may_decide():
            best = self._best_from_candidates(answer)
        values, parents, tokens = best or self._best_of_all(answer)
        reasons = self._reasons(parents, tokens)
        self._collect(values, parents, tokens, reasons)
        going_on = self._continue(values, reasons)
        self._update_improvable()
        full = len(self.finished) == self.beams
        stopped_early = full and self.options.early_stopping is True
        self.done = not self._improvable or stopped_early or None not in reasons
        choice = parents[going_on].tolist(), tokens[going_on].tolist()
        self._records.go_on(*choice)
        return choice

    def _best_of_all(self, answer: Answer) -> Best:
        """The best of all tokens, or drawn ones."""
        logits = all_logits(answer)
        total, shared = self._shared_out(checked(total_of(answer)), lambda: logits)
        scores = log_likelihoods(logits, total)
        nothing_left = bool(self._filter(scores).all())
        if nothing_left and not self.finished:
            raise self._stuck()
        if self._draws is not None and not nothing_left:
            return self._drawn(scores, self._draws)
        if self._renormalises and not shared:
            possible = scores.max(axis=1) > NEVER
            scores[possible] = log_softmax(scores[possible])
        scores += self.scores[:, None]
        return self._top(scores, min(self.kept, scores.size))

    def _drawn(self, scores: Logits, rng: np.random.Generator) -> Best:
        """Different candidates, drawn by what whole sequences score, best first."""
        left = [remaining(row, self.options) for row in scores]
        if self._renormalises:
            left = [each.normalised() for each in left]
        parents = np.repeat(np.arange(self.beams), [len(each.ids) for each in left])
        tokens = np.concatenate([each.ids for each in left])
        totals = np.concatenate([each.scores for each in left]) + self.scores[parents]
        places = draw_several(np.exp((totals - totals.max()).astype(np.float64)), self.kept, rng)
        # Where fewer are possible, the best of the impossible follow, so that beams can go on.
        others = np.setdiff1d(np.arange(len(totals)), places)
        best = others[np.argsort(-totals[others], kind="stable")][: self.kept - len(places)]
        places = places[np.argsort(-totals[places], kind="stable")]
        places = np.concatenate((places, best))
        short = max(0, self.beams - len(places))  # filters left fewer tokens than there are beams
        values = np.pad(totals[places], (0, short), constant_values=2 * CLOSED)
        return values, np.pad(parents[places], (0, short)), np.pad(tokens[places], (0, short))

    def _best_from_candidates(self, answer: Candidates) -> Best | None:
        """The same among candidates; None where others may be better.

        Filters only lower scores here, so no other token of a beam can come above that beam's least
        candidate before them.
        """
        candidates = TopCandidates(answer, filtered=bool(self.filters))
        total, shared = self._shared_out(candidates.log_sum_exp, answer.logits)
        if self._renormalises and not shared:
            return None
        scores = log_likelihoods(candidates.logits, total)
        others = scores.min(axis=1) + self.scores
        scores = self._buffer.filtered(self.history, self.filters, candidates, scores)
        scores = scores + self.scores[:, None]
        if scores.size < self.kept:
            return None
        values, parents, columns = self._top(scores, self.kept)
        if values[-1] <= others.max():
            return None
        return values, parents, candidates.ids[parents, columns]

    def _shared_out(
        self, total: NDArray[np.float64], logits: Callable[[], Logits]
    ) -> tuple[NDArray[np.float64], bool]:
        """The log-sum-exps (beams,) without what the filters forbid, and whether that could be.

        It can where the filters do no more than that, and enough is left.
        """
        if not self._renormalises or not self._candidates_may_decide():
            return total, False
        values = logits()
        rows, ids = self._forbidden(self.history, self.filters, values.shape)
        likely = np.exp(values[rows, ids] - total[rows])
        part = np.bincount(rows, weights=likely, minlength=len(total)).astype(np.float64)
        if part.max() > MOST_FORBIDDEN:
            return total, False
        return total + np.log1p(-part), True

    def _top(self, scores: Logits, kept: int) -> Best:
        """The best of (beams, any) scores: values, their rows and their columns."""
        values, places = top_k(scores.reshape(-1), kept)
        parents, columns = np.divmod(places, scores.shape[1])
        return values, parents, columns

    def _reasons(
        self, parents: NDArray[np.int64], tokens: NDArray[np.int64]
    ) -> list[FinishReason | None]:
        """Why each candidate ends here, None where it goes on."""
        last = self.history.generated + 1 == self.history.limit
        otherwise: FinishReason | None = "length" if last else None
        ends = () if last and self.options.forced_eos_token_id else self.ends
        reasons: list[FinishReason | None] = [
            "stop" if token in ends else otherwise for token in tokens.tolist()
        ]
        if self._holds_stop is not None:
            new_tokens = self.history.new_tokens
            for i, (parent, token) in enumerate(zip(parents, tokens.tolist(), strict=True)):
                if reasons[i] != "stop" and self._holds_stop([*new_tokens[parent].tolist(), token]):
                    reasons[i] = "stop_string"
        return reasons

    def _collect(
        self,
        values: NDArray[np.float32],
        parents: NDArray[np.int64],
        tokens: NDArray[np.int64],
        reasons: Sequence[FinishReason | None],
    ) -> None:
        """Keep the best candidates that end here; only the first `beams` of them count."""
        full = len(self.finished) == self.beams and self.options.early_stopping is True
        if full or not self._improvable:
            return
        for rank, reason in enumerate(reasons[: self.beams]):
            if reason is not None:
                row, token = int(parents[rank]), int(tokens[rank])
                ids = (*self.history.new_tokens[row].tolist(), token)
                self._finish(ids, values[rank], reason, self._records.behind(row, token))
        self._sort_finished()

    def _finish(
        self,
        ids: tuple[int, ...],
        value: np.float32,
        reason: FinishReason,
        records: SequenceRecords,
    ) -> None:
        divisor = np.float32(max(1, len(ids)) ** self.options.length_penalty)
        score = float(value / divisor)
        self.finished.append(
            GeneratedSequence(ids=ids, score=score, finish_reason=reason, **vars(records))
        )

    def _sort_finished(self) -> None:
        self.finished.sort(key=lambda sequence: -sequence.score)
        del self.finished[self.beams :]

    def _continue(
        self, values: NDArray[np.float32], reasons: Sequence[FinishReason | None]
    ) -> NDArray[np.int64] | slice:
        """Ranks (beams,) of the candidates that go on; sets their scores."""
        if not any(reasons):
            self.scores = values[: self.beams]
            return slice(self.beams)
        stops = np.array([reason is not None for reason in reasons])
        open_scores = np.where(stops, values + CLOSED, values)
        order = np.argsort(-open_scores, kind="stable")[: self.beams]
        self.scores = open_scores[order]
        return order

    def _update_improvable(self) -> None:
        """Whether the best open beam may still beat the worst finished sequence."""
        penalty = self.options.length_penalty
        length = self.history.generated + 1
        if self.options.early_stopping == "never" and penalty > 0.0:
            length = self.history.limit
        best = self.scores[0] / np.float32(length**penalty)
        worst = self.finished[-1].score if len(self.finished) == self.beams else CLOSED
        self._improvable = self._improvable and bool(best > worst)

    def certain(self) -> list[Sequence[int]]:
        """See Search: what all beams begin with, and all finished sequences."""
        open_rows = self.history.new_tokens[self.scores > CLOSED / 2].tolist()
        together = [*open_rows, *(sequence.ids for sequence in self.finished)]
        common = []
        for tokens in zip(*together, strict=False):
            if len(set(tokens)) > 1:
                break
            common.append(tokens[0])
        return [common] * self.options.num_return_sequences

    def stop(self, reason: FinishReason) -> None:
        """See Search. Open beams count as they are, behind the finished ones of a better score."""
        for row in range(self.beams):
            if self.scores[row] > CLOSED / 2:
                ids = tuple(self.history.new_tokens[row].tolist())
                self._finish(ids, self.scores[row], reason, self._records.of(row))
        self._sort_finished()
        self.done = True

    def results(self) -> list[GeneratedSequence]:
        """See Search."""
        best = self.finished[: self.options.num_return_sequences]
        return [dataclasses.replace(each, index=rank) for rank, each in enumerate(best)]


def top_k(values: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k largest of (width,) values, largest first, with their places, both (k,).

    Of equal values the first wins, as in a stable sort of everything.
    """
    if len(values) <= FEW:
        places = np.argsort(-values, kind="stable")[:k]
        return values[places], places
    _, least = largest_bounds(values[None], k)
    places = np.flatnonzero(values >= least[0])
    places = places[np.argsort(-values[places], kind="stable")[:k]]
    return values[places], places
