"""The decode loop that greedy and beam search share: step, choose, filter, stop."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.backend import Answer, Backend, Candidates, Logits, Memory, all_logits
from seq2edge.runtime.beam import BeamSearch, Hypothesis
from seq2edge.runtime.candidates import ScoreBuffer, TopCandidates
from seq2edge.runtime.filters import Filter, History, make_filters, may_increase_scores
from seq2edge.runtime.likelihood import log_sum_exp
from seq2edge.runtime.options import DecodeOptions

# Tokens (rows,) and their log-probabilities.
Chosen: TypeAlias = "tuple[NDArray[np.int64], NDArray[np.float64]]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratedSequence:
    """One result.

    `ids` are the generated tokens, without the prompt and with the end token where there is one
    (`finished`). `score` is the sum of log-probabilities; in beam search divided by
    length ** length_penalty.
    """

    ids: tuple[int, ...]
    score: float
    finished: bool


class Search(Protocol):
    """Chooses the tokens of all rows, and knows when it is done."""

    done: bool

    def choose(
        self, history: History, answer: Answer, filters: list[Filter]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Parents and tokens (rows,) to go on with.

        All logits are asked for where the answer's candidates do not decide.
        """

    def results(self, item: int) -> list[Hypothesis]:
        """Finished sequences of one input, best first."""


class GreedySearch:
    """The most likely token of each row, until all rows have ended."""

    def __init__(self, batch: int, options: DecodeOptions) -> None:
        self.options = options
        self.ends = np.array(options.eos_token_id, dtype=np.int64)
        first_end = options.eos_token_id[0] if options.eos_token_id else 0
        self.pad = first_end if options.pad_token_id is None else options.pad_token_id
        self.rows = np.arange(batch)
        self.scores = np.zeros(batch, dtype=np.float64)
        self.lengths = np.zeros(batch, dtype=np.int64)
        self.ended = np.zeros(batch, dtype=np.bool_)
        self.done = False
        self._history: History | None = None
        self._buffer = ScoreBuffer()

    def choose(
        self, history: History, answer: Answer, filters: list[Filter]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """See Search."""
        self._history = history
        chosen = None
        if isinstance(answer, Candidates) and not may_increase_scores(self.options, history):
            chosen = self._greedy_from_candidates(history, TopCandidates(answer), filters)
        if chosen is None:
            chosen = self._first(history, all_logits(answer), filters)
        tokens, likely = chosen
        self.scores += np.where(self.ended, 0.0, likely)
        tokens[self.ended] = self.pad
        self.lengths += ~self.ended
        self.ended |= np.isin(tokens, self.ends) & ~self.ended
        self.done = bool(self.ended.all()) or history.generated + 1 == history.limit
        return self.rows, tokens

    def _first(self, history: History, logits: Logits, filters: list[Filter]) -> Chosen:
        """The likeliest of all tokens, the first of equals."""
        filtered = logits.copy() if filters else logits
        for filter_ in filters:
            filter_(history, filtered)
        tokens = filtered.argmax(axis=1)
        return tokens, logits[self.rows, tokens].astype(np.float64) - log_sum_exp(logits)

    def _greedy_from_candidates(
        self, history: History, candidates: TopCandidates, filters: list[Filter]
    ) -> Chosen | None:
        """The same among candidates; None where another may be likelier."""
        filtered = self._buffer.filtered(history, filters, candidates, candidates.logits)
        places = filtered.argmax(axis=1)
        sure = filtered[self.rows, places] > candidates.logits.min(axis=1)
        if not (sure | self.ended).all():
            return None
        likely = candidates.logits[self.rows, places].astype(np.float64) - candidates.log_sum_exp
        return candidates.ids[self.rows, places], likely

    def results(self, item: int) -> list[Hypothesis]:
        """See Search."""
        assert self._history is not None
        ids = self._history.new_tokens[item, : self.lengths[item]].tolist()
        score, ended = float(self.scores[item]), bool(self.ended[item])
        return [Hypothesis(score=score, ids=tuple(ids), ended=ended)]


def decode(
    backend: Backend,
    memory: Memory | None,
    prompts: Sequence[Sequence[int]],
    options: DecodeOptions,
    *,
    max_new_tokens: int,
) -> list[list[GeneratedSequence]]:
    """Generate up to `max_new_tokens` after each prompt; for each, its sequences, best first.

    An encoder-decoder's prompts are the decoder's start tokens, one list for each input of
    `memory`. Raises CapacityError where a fixed capacity does not hold a sequence.
    """
    batch, beams = len(prompts), options.num_beams
    history = History([np.array(p, dtype=np.int64) for p in prompts], beams, max_new_tokens)
    search: Search = BeamSearch(batch, options) if beams > 1 else GreedySearch(batch, options)
    filters = make_filters(options)
    cache = backend.start(memory, batch, options.capacity)
    answer = _for_beams(backend.step(*_padded(prompts), cache), beams)
    one = np.ones(batch * beams, dtype=np.int64)
    while True:
        parents, tokens = search.choose(history, answer, filters)
        history.append(tokens, parents if beams > 1 else None)
        if search.done:
            break
        if beams > 1:
            # The prompts were read once an input; the first choice spreads them over the beams.
            cache.reorder(parents // beams if history.generated == 1 else parents)
        answer = backend.step(tokens[:, None], one, cache)
    return [
        [
            GeneratedSequence(ids=found.ids, score=found.score, finished=found.ended)
            for found in search.results(item)
        ]
        for item in range(batch)
    ]


def _for_beams(answer: Answer, beams: int) -> Answer:
    """What each input was answered, once for each of its beams."""
    if isinstance(answer, Candidates):
        return answer.repeat(beams)
    return np.repeat(answer, beams, axis=0)


def _padded(prompts: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Right-padded prompts (batch, longest) and their lengths (batch,)."""
    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    tokens = np.zeros((len(prompts), int(lengths.max())), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    return tokens, lengths
