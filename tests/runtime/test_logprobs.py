"""Log-probabilities of generated tokens are the model's own, whichever search chose them."""

from __future__ import annotations

import numpy as np
import pytest

from seq2edge.errors import OptionError
from seq2edge.runtime.fake import FakeBackend, random_answer
from seq2edge.runtime.likelihood import log_softmax
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.request import Request
from seq2edge.runtime.scheduler import Scheduler, decode

VOCAB = 20
PROMPT = (5, 6)
KINDS = {
    "greedy": {},
    "drawn": {"do_sample": True, "seed": 2, "num_return_sequences": 3},
    "filtered": {"no_repeat_ngram_size": 1, "min_new_tokens": 4, "forced_eos_token_id": (2,)},
    "beams": {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.0},
    "drawn beams": {"num_beams": 3, "do_sample": True, "seed": 1, "num_return_sequences": 2},
}


def request(**options):
    """Twelve tokens at most behind two."""
    return Request(
        prompt=PROMPT, options=DecodeOptions(eos_token_id=(2,), **options), max_new_tokens=12
    )


@pytest.mark.parametrize("top_k", [0, 2, 12])
@pytest.mark.parametrize("kind", KINDS)
def test_every_token_has_what_the_model_gave_it(kind, top_k):
    """And the four likeliest at its place, of several results each its own."""
    for seed in range(5):
        answer = random_answer(VOCAB, seed=seed, spread=1.5)
        plain, told = (
            decode(FakeBackend(answer, top_k=top_k), [request(**KINDS[kind], **more)])[0]
            for more in ({}, {"logprobs": 4})
        )
        assert [s.ids for s in told] == [s.ids for s in plain]
        assert all(s.logprobs is None for s in plain)
        for sequence in told:
            assert len(sequence.logprobs) == len(sequence.ids)
            for i, (token, entry) in enumerate(zip(sequence.ids, sequence.logprobs, strict=True)):
                logits = answer(PROMPT + sequence.ids[:i], None).astype(np.float32)
                expected = log_softmax(logits[None])[0]
                assert entry.logprob == pytest.approx(expected[token], abs=1e-5)
                best = np.argsort(-expected)[:4]
                assert [other for other, _ in entry.top] == best.tolist()
                assert [value for _, value in entry.top] == pytest.approx(expected[best], abs=1e-5)
            total = sum(entry.logprob for entry in sequence.logprobs)
            if kind in ("greedy", "drawn", "beams"):
                assert total == pytest.approx(sequence.score, abs=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_what_was_cancelled_has_those_of_its_tokens(beams):
    """The chosen tokens' alone with 0."""
    scheduler = Scheduler(FakeBackend(random_answer(VOCAB, seed=1)))
    group = scheduler.submit(request(logprobs=0, num_beams=beams, min_new_tokens=9))
    for _ in range(4):
        scheduler.step()
    group.cancel()
    scheduler.run()
    (result,) = group.results()
    assert len(result.logprobs) == len(result.ids) == 4
    assert all(entry.top == () for entry in result.logprobs)


def test_a_negative_number_is_refused():
    """By name."""
    with pytest.raises(OptionError, match="logprobs: -1, needs an integer of at least 0"):
        DecodeOptions(logprobs=-1)
