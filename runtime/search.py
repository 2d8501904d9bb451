"""What a request's next tokens are: the likeliest, drawn ones, or what beam search goes on with.

A search knows its request alone, so that what it chooses does not depend on what is decoded beside
it. `choose` is called once a step until `done`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import OptionError
from seq2edge.runtime.backend import Answer, Candidates, Logits, all_logits
from seq2edge.runtime.candidates import ScoreBuffer, TopCandidates
from seq2edge.runtime.filters import (
    FORBIDDING,
    NEVER,
    Filter,
    forbid_others,
    make_filters,
    may_increase_scores,
)
from seq2edge.runtime.likelihood import checked, total_of
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.sampling import draw, remaining
from seq2edge.runtime.sequences import (
    FinishReason,
    GeneratedSequence,
    History,
    TokenLogprob,
)
from seq2edge.runtime.token_records import TokenRecords

# Whether a row's generated tokens hold a stop string; what a caller does to scores (rows, vocab),
# given the tokens (rows, length) before them.
HoldsStop: TypeAlias = Callable[[Sequence[int]], bool]
Processor: TypeAlias = Callable[[NDArray[np.int64], Logits], Logits]

ROOM = 8  # candidates beside those that are taken, for filters to forbid

# Rows to go on from, None where each goes on from itself, and a token for each row.
Choice: TypeAlias = "tuple[list[int] | None, list[int]]"
# A token for each row, and their log-probabilities.
Chosen: TypeAlias = "tuple[list[int], list[float]]"


class Search(Protocol):
    """Chooses the tokens of a request's rows, and knows when it is done."""

    done: bool
    wanted: int  # candidates of each row that decide most steps

    def choose(self, answer: Answer) -> Choice:
        """Which rows to go on from, and with which tokens.

        All logits are asked for where the answer's candidates do not decide.
        """

    def certain(self) -> list[Sequence[int]]:
        """The ids with which each answer will begin, by `index`, as far as that is known.

        Without the end token of one that has ended.
        """

    def logprobs(self, row: int, length: int) -> Sequence[TokenLogprob] | None:
        """Those of a row's first ids, where the options ask for them. From any thread."""

    def stop(self, reason: FinishReason) -> None:
        """End here, with what there is."""

    def results(self) -> list[GeneratedSequence]:
        """The sequences, best first; while it is not done, those that have ended."""


def filters_of(options: DecodeOptions, processors: Sequence[Processor]) -> list[Filter]:
    """The options' filters, then those of the caller."""

    def applied(processor: Processor) -> Filter:
        def filter_(history: History, scores: Logits) -> None:
            scores[:] = processor(history.tokens, scores)

        return filter_

    return [*make_filters(options), *map(applied, processors)]


class FilteredSearch:
    """What every search has: its request's history, the filters of scores, whether it is done."""

    def __init__(
        self,
        history: History,
        options: DecodeOptions,
        *,
        processors: Sequence[Processor] = (),
        allowed: NDArray[np.bool_] | None = None,
        holds_stop: HoldsStop | None = None,
    ) -> None:
        self.history, self.options = history, options
        self.filters = filters_of(options, processors)
        if allowed is not None:
            self.filters.insert(0, functools.partial(forbid_others, ~allowed))
        self.done = False
        self._buffer = ScoreBuffer()
        self._holds_stop = holds_stop
        self._records = TokenRecords(len(history.tokens), options)
        # A draw needs all tokens, and a caller's processor may make any of them likelier.
        self._only_lowers = not options.do_sample and not processors

    def _filter(self, scores: Logits) -> NDArray[np.bool_]:
        """Apply the filters; whether they leave a row no token (rows,)."""
        for filter_ in self.filters:
            filter_(self.history, scores)
        if not self.filters:
            return np.zeros(len(scores), dtype=np.bool_)
        return np.asarray(scores.max(axis=1) == NEVER)

    def _stuck(self) -> OptionError:
        """What says that the filters leave no token."""
        names = [name for name in self.options.to_dict() if name in FORBIDDING]
        return OptionError(
            f"{', '.join(names) or 'processors'}: after {self.history.generated} tokens "
            "no other is left to choose; forbid fewer"
        )

    def logprobs(self, row: int, length: int) -> Sequence[TokenLogprob] | None:
        """See Search."""
        return self._records.of(row, length).logprobs

    def _candidates_may_decide(self) -> bool:
        """Whether no token can come above what it was before the filters, at this step."""
        return self._only_lowers and not (
            self.filters and may_increase_scores(self.options, self.history)
        )


class RowSearch(FilteredSearch):
    """Rows that go on by themselves, with the likeliest token or a drawn one, until all ended."""

    def __init__(self, history: History, options: DecodeOptions, **more: Any) -> None:
        """See FilteredSearch."""
        super().__init__(history, options, **more)
        rows = len(history.tokens)
        self._draws = (
            [generator_of(options, row) for row in range(rows)] if options.do_sample else []
        )
        self.wanted = ROOM if self.filters else 1
        self._ends = frozenset(options.eos_token_id)
        first_end = options.eos_token_id[0] if options.eos_token_id else 0
        self._pad = first_end if options.pad_token_id is None else options.pad_token_id
        self._scores = [0.0] * rows
        self._lengths = [0] * rows
        self._reasons: list[FinishReason | None] = [None] * rows

    def choose(self, answer: Answer) -> Choice:
        """See Search. Rows that have ended go on with padding."""
        chosen = None
        if isinstance(answer, Candidates) and self._candidates_may_decide():
            chosen = self._likeliest_candidates(answer)
        tokens, likelihoods = chosen or self._likeliest(answer)
        self._records.begin(answer)
        self._records.go_on(range(len(tokens)), tokens)
        last = self.history.generated + 1 == self.history.limit
        for row, reason in enumerate(self._reasons):
            if reason is None:
                self._scores[row] += likelihoods[row]
                self._reasons[row] = self._ended(row, tokens[row], last=last)
                self._lengths[row] += 1
            else:
                tokens[row] = self._pad
        self.done = None not in self._reasons
        return None, tokens

    def _ended(self, row: int, token: int, *, last: bool) -> FinishReason | None:
        """Why a row ends with this token, None where it goes on."""
        if last and self.options.forced_eos_token_id:
            return "length"  # an end that nobody chose
        if token in self._ends:
            return "stop"
        if self._holds_stop is not None and self._holds_stop([*self._ids_of(row), token]):
            return "stop_string"
        return "length" if last else None

    def _ids_of(self, row: int) -> list[int]:
        ids: list[int] = self.history.new_tokens[row, : self._lengths[row]].tolist()
        return ids

    def _likeliest(self, answer: Answer) -> Chosen:
        """The likeliest of all tokens, the first of equals, or a drawn one."""
        logits = all_logits(answer)
        filtered = logits.copy() if self.filters else logits
        stuck = self._filter(filtered)
        if any(stuck[row] for row, reason in enumerate(self._reasons) if reason is None):
            raise self._stuck()
        tokens = self._drawn(filtered) if self._draws else filtered.argmax(axis=1)
        values = logits[np.arange(len(tokens)), tokens].astype(np.float64)
        return tokens.tolist(), (values - checked(total_of(answer))).tolist()

    def _drawn(self, scores: Logits) -> NDArray[np.int64]:
        """A token for each row; of rows that have ended, any."""
        tokens = np.full(len(scores), self._pad)
        if not self.history.generated:  # all rows begin alike
            numbers = np.array([rng.random() for rng in self._draws])
            return draw(remaining(scores[0], self.options), numbers)
        for row, rng in enumerate(self._draws):
            if self._reasons[row] is None:
                tokens[row : row + 1] = draw(remaining(scores[row], self.options), rng.random(1))
        return tokens

    def _likeliest_candidates(self, answer: Candidates) -> Chosen | None:
        """The same among candidates; None where another may be likelier."""
        if not self.filters:
            return _first_candidates(answer)
        top = TopCandidates(answer)
        filtered = self._buffer.filtered(self.history, self.filters, top, top.logits)
        places = filtered.argmax(axis=1)
        rows = np.arange(len(places))
        sure = filtered[rows, places] > top.logits.min(axis=1)
        if not all(sure[row] or reason for row, reason in enumerate(self._reasons)):
            return None
        logits = top.logits[rows, places].astype(np.float64)
        return top.ids[rows, places].tolist(), (logits - top.log_sum_exp).tolist()

    def certain(self) -> list[Sequence[int]]:
        """See Search."""
        return [
            self._ids_of(row)[:-1] if reason == "stop" else self._ids_of(row)
            for row, reason in enumerate(self._reasons)
        ]

    def stop(self, reason: FinishReason) -> None:
        """See Search."""
        self._reasons = [before or reason for before in self._reasons]
        self.done = True

    def results(self) -> list[GeneratedSequence]:
        """See Search: the likeliest of several drawn ones first."""
        sequences = [
            GeneratedSequence(
                ids=tuple(self._ids_of(row)),
                score=self._scores[row],
                index=row,
                finish_reason=reason,
                **vars(self._records.of(row, self._lengths[row])),
            )
            for row, reason in enumerate(self._reasons)
            if reason is not None
        ]
        return sorted(sequences, key=lambda sequence: -sequence.score)


def _first_candidates(answer: Candidates) -> Chosen | None:
    """The first of the largest, None where others may be as large.

    Of a few numbers in plain Python, which is faster.
    """
    tokens, likelihoods = [], []
    totals = checked(answer.log_sum_exp).tolist()
    lines = zip(answer.values.tolist(), answer.ids.tolist(), totals, strict=True)
    for values, ids, total in lines:
        largest = max(values)
        if answer.first_of_equals:
            token = ids[values.index(largest)]
        else:
            equal = [each for each, value in zip(ids, values, strict=True) if value == largest]
            if len(equal) == len(ids):
                return None
            token = min(equal)
        tokens.append(token)
        likelihoods.append(largest - total)
    return tokens, likelihoods


def generator_of(options: DecodeOptions, row: int) -> np.random.Generator:
    """The draws of one row: the same for the same seed and row, whatever is decoded beside it."""
    if options.seed is None:
        return np.random.default_rng()
    return np.random.default_rng([options.seed, row])
