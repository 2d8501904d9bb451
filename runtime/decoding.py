"""The decode loop that greedy and beam search share: step, choose, filter, stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.backend import Answer, Backend, Candidates, Logits, Memory, all_logits
from seq2edge.runtime.beam import BeamSearch
from seq2edge.runtime.candidates import ScoreBuffer, TopCandidates
from seq2edge.runtime.filters import make_filters, may_increase_scores
from seq2edge.runtime.likelihood import checked, log_sum_exp
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.sequences import GeneratedSequence, History, pad

# Tokens (rows,) and their log-probabilities.
Chosen: TypeAlias = "tuple[NDArray[np.int64], NDArray[np.float64]]"


class Search(Protocol):
    """Chooses the tokens of all rows, and knows when it is done."""

    done: bool

    def choose(self, answer: Answer) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Parents and tokens (rows,) to go on with.

        All logits are asked for where the answer's candidates do not decide.
        """

    def results(self, item: int) -> list[GeneratedSequence]:
        """Finished sequences of one input, best first."""


class GreedySearch:
    """The most likely token of each row, until all rows have ended."""

    def __init__(self, history: History, options: DecodeOptions) -> None:
        self.history, self.options = history, options
        self.filters = make_filters(options)
        batch = len(history.tokens)
        self.ends = np.array(options.eos_token_id, dtype=np.int64)
        first_end = options.eos_token_id[0] if options.eos_token_id else 0
        self.pad = first_end if options.pad_token_id is None else options.pad_token_id
        self.rows = np.arange(batch)
        self.scores = np.zeros(batch, dtype=np.float64)
        self.lengths = np.zeros(batch, dtype=np.int64)
        self.ended = np.zeros(batch, dtype=np.bool_)
        self.done = False
        self._buffer = ScoreBuffer()

    def choose(self, answer: Answer) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """See Search."""
        history, chosen = self.history, None
        if isinstance(answer, Candidates) and not may_increase_scores(self.options, history):
            chosen = self._greedy_from_candidates(TopCandidates(answer))
        if chosen is None:
            chosen = self._greedy_from_all(all_logits(answer))
        tokens, likelihoods = chosen
        self.scores += np.where(self.ended, 0.0, likelihoods)
        tokens[self.ended] = self.pad
        self.lengths += ~self.ended
        self.ended |= np.isin(tokens, self.ends) & ~self.ended
        self.done = bool(self.ended.all()) or history.generated + 1 == history.limit
        return self.rows, tokens

    def _greedy_from_all(self, logits: Logits) -> Chosen:
        """The likeliest of all tokens, the first of equals."""
        filtered = logits.copy() if self.filters else logits
        for filter_ in self.filters:
            filter_(self.history, filtered)
        tokens = filtered.argmax(axis=1)
        return tokens, logits[self.rows, tokens].astype(np.float64) - checked(log_sum_exp(logits))

    def _greedy_from_candidates(self, candidates: TopCandidates) -> Chosen | None:
        """The same among candidates; None where another may be likelier."""
        filtered = self._buffer.filtered(self.history, self.filters, candidates, candidates.logits)
        places = filtered.argmax(axis=1)
        sure = filtered[self.rows, places] > candidates.logits.min(axis=1)
        if not (sure | self.ended).all():
            return None
        logits = candidates.logits[self.rows, places].astype(np.float64)
        return candidates.ids[self.rows, places], logits - candidates.log_sum_exp

    def results(self, item: int) -> list[GeneratedSequence]:
        """See Search."""
        ids = self.history.new_tokens[item, : self.lengths[item]].tolist()
        score, finished = float(self.scores[item]), bool(self.ended[item])
        return [GeneratedSequence(ids=tuple(ids), score=score, finished=finished)]


def decode(
    backend: Backend,
    memory: Memory | None,
    prompts: Sequence[Sequence[int]],
    options: DecodeOptions,
    *,
    max_new_tokens: int,
) -> list[list[GeneratedSequence]]:
    """Generate up to `max_new_tokens` after each prompt; for each, its sequences, best first.

    `prompts` are lists of ids, of any lengths: (batch) of them, padded where they are fed. An
    encoder-decoder's are the decoder's start tokens, one list for each input of `memory`. Rows are
    batch * beams, those of an input behind each other. Raises CapacityError where a fixed capacity
    does not hold a sequence, BackendError where the model answers NaN.
    """
    batch, beams = len(prompts), options.num_beams
    history = History([np.array(p, dtype=np.int64) for p in prompts], beams, max_new_tokens)
    search: Search = (BeamSearch if beams > 1 else GreedySearch)(history, options)
    cache = backend.start(memory, batch, options.capacity)
    answer = _for_beams(backend.step(*pad(prompts), cache), beams)  # (batch * beams, vocab)
    one = np.ones(batch * beams, dtype=np.int64)
    while True:
        parents, tokens = search.choose(answer)  # (rows,) both
        history.append(tokens, parents if beams > 1 else None)
        if search.done:
            break
        if beams > 1:
            # The prompts were read once an input; the first choice spreads them over the beams.
            cache.reorder(parents // beams if history.generated == 1 else parents)
        answer = backend.step(tokens[:, None], one, cache)
    return [search.results(item) for item in range(batch)]


def _for_beams(answer: Answer, beams: int) -> Answer:
    """What each input was answered, once for each of its beams."""
    if isinstance(answer, Candidates):
        return answer.repeat(beams)
    return np.repeat(answer, beams, axis=0)
