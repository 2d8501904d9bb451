"""How likely a model finds sequences that it did not write."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from seq2edge.errors import InputError
from seq2edge.runtime.backend import Backend, Memory, all_logits
from seq2edge.runtime.likelihood import checked, log_sum_exp
from seq2edge.runtime.sequences import pad


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoredSequence:
    """How likely a model finds a sequence: the sum of the log-probabilities of its `tokens`.

    Natural logarithm. exp(-log_likelihood / tokens) is the sequence's perplexity.
    """

    log_likelihood: float
    tokens: int


def score_labels(
    backend: Backend,
    memory: Memory | None,
    prompts: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
) -> list[ScoredSequence]:
    """Score the labels after each prompt; the prompts are of one length.

    A step answers what follows its last token alone, so the labels are fed one by one. Raises
    InputError for a row without a label.
    """
    tokens, lengths = pad(labels)
    if not lengths.min():
        raise InputError(f"score: sequence {int(lengths.argmin())} has no token to score")
    rows, longest = tokens.shape
    cache = backend.start(memory, rows, len(prompts[0]) + longest)
    one = np.ones(rows, dtype=np.int64)
    answer = backend.step(*pad(prompts), cache)
    scores = np.zeros(rows)
    for i in range(longest):
        logits, label = all_logits(answer), tokens[:, i : i + 1]
        likelihood = np.take_along_axis(logits, label, axis=1)[:, 0] - checked(log_sum_exp(logits))
        scores += np.where(i < lengths, likelihood, 0.0)
        if i + 1 < longest:
            answer = backend.step(label, one, cache)
    return [
        ScoredSequence(log_likelihood=score, tokens=count)
        for score, count in zip(scores.tolist(), lengths.tolist(), strict=True)
    ]
