"""The decode loop: greedy search, what it asks of a backend, and what it returns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2edge.errors import CapacityError
from seq2edge.runtime.decoding import decode
from seq2edge.runtime.fake import Call, FakeBackend, random_answer
from seq2edge.runtime.likelihood import log_softmax
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.sequences import GeneratedSequence

VOCAB = 6
PROMPTS = st.lists(
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4), min_size=1, max_size=3
)


def counting(history, _):
    """The next number, up to the vocabulary's end."""
    logits = np.zeros(10)
    logits[min(history[-1] + 1, 9)] = 5.0
    return logits


def generate(answer, prompts, limit, **options):
    """The single sequence of each prompt, and the backend that gave it."""
    backend = FakeBackend(answer)
    results = decode(backend, None, prompts, DecodeOptions(**options), max_new_tokens=limit)
    return [sequences[0] for sequences in results], backend


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 999), PROMPTS, st.integers(1, 6))
def test_greedy_takes_the_likeliest_token(seed, prompts, limit):
    """Every row by itself, however long its neighbours are; scores are log-probabilities."""
    answer = random_answer(VOCAB, seed)
    found, _ = generate(answer, prompts, limit, eos_token_id=2)
    for prompt, sequence in zip(prompts, found, strict=True):
        ids, score = (), 0.0
        while len(ids) < limit and 2 not in ids:
            likely = log_softmax(answer((*prompt, *ids), None))
            ids, score = (*ids, int(likely.argmax())), score + likely.max()
        assert sequence.ids == ids
        assert sequence.score == pytest.approx(score, abs=1e-4)
        assert sequence.finished == (ids[-1] == 2)


def test_prompts_are_fed_once_then_one_token_a_step():
    """The cache holds the rest; ended rows are fed padding."""
    found, backend = generate(counting, [[1, 2], [6]], 5, eos_token_id=8, pad_token_id=0)
    assert [sequence.ids for sequence in found] == [(3, 4, 5, 6, 7), (7, 8)]
    assert backend.calls == [
        Call(name="start", rows=2),
        Call(name="step", rows=2, tokens=((1, 2), (6,))),
        Call(name="step", rows=2, tokens=((3,), (7,))),
        Call(name="step", rows=2, tokens=((4,), (8,))),
        Call(name="step", rows=2, tokens=((5,), (0,))),
        Call(name="step", rows=2, tokens=((6,), (0,))),
    ]


def test_it_stops_when_all_rows_have_ended():
    """Not a step more; the last token is never fed."""
    found, backend = generate(counting, [[5], [6]], 9, eos_token_id=(7, 8))
    assert [sequence.ids for sequence in found] == [(6, 7), (7,)]
    assert all(sequence.finished for sequence in found)
    assert sum(call.name == "step" for call in backend.calls) == 2


def test_rows_that_ended_are_padded_with_what_there_is():
    """The padding token, else the first end token, else nothing ever ends."""
    _, backend = generate(counting, [[1], [6]], 4, eos_token_id=(7, 8))
    assert backend.calls[-1].tokens == ((4,), (7,))
    found, _ = generate(counting, [[1]], 4)
    assert found == [GeneratedSequence(ids=(2, 3, 4, 5), score=found[0].score, finished=False)]


def test_filters_choose_but_do_not_count():
    """A greedy score is the model's own, also of tokens that a filter forced."""
    found, _ = generate(counting, [[1]], 2, forced_eos_token_id=9, eos_token_id=9)
    assert found[0].ids == (2, 9)
    likely = [log_softmax(counting((1,), None))[2], log_softmax(counting((1, 2), None))[9]]
    assert found[0].score == pytest.approx(sum(likely), abs=1e-5)


def test_a_backend_may_reuse_its_logits():
    """The loop changes no array that it was given."""
    shared = np.arange(VOCAB, dtype=np.float32)[None].repeat(2, axis=0)

    class Reusing(FakeBackend):
        def step(self, tokens, new_length, cache):
            super().step(tokens, new_length, cache)
            return shared if len(tokens) == 2 else shared[:1]

    kept = shared.copy()
    for beams in (1, 2):
        options = DecodeOptions(
            num_beams=beams, repetition_penalty=2.0, suppress_tokens=(1,), forced_bos_token_id=3
        )
        decode(Reusing(random_answer(VOCAB)), None, [[1]], options, max_new_tokens=3)
        np.testing.assert_array_equal(shared, kept)


def test_capacity_is_the_backends_to_keep():
    """The option reaches it; what does not fit is an error."""
    assert len(generate(counting, [[1, 2]], 3, capacity=4)[0][0].ids) == 3
    with pytest.raises(CapacityError, match="more than the 4 tokens"):
        generate(counting, [[1, 2]], 4, capacity=4)
