"""The test double keeps the backend's promises."""

from __future__ import annotations

import numpy as np
import pytest

from seq2edge.errors import BackendError, CapacityError
from seq2edge.runtime.backend import all_logits
from seq2edge.runtime.fake import Call, FakeBackend, random_answer

ONE = np.ones(2, dtype=np.int64)


def told(history, source):
    """Logits that show what was asked for."""
    return np.array([len(history), sum(history), sum(source or ())], dtype=np.float32)


def test_rows_have_lengths_of_their_own():
    """Padding is not seen, neither of tokens nor of sources."""
    backend = FakeBackend(told)
    memory = backend.encode(np.array([[5, 6, 7], [8, 9, 0]]), np.array([3, 2]))
    cache = backend.start(memory, 2, None)
    logits = backend.step(np.array([[1, 2], [3, 0]]), np.array([2, 1]), cache)
    assert logits.tolist() == [[2, 3, 18], [1, 3, 17]]
    assert cache.length.tolist() == [2, 1]
    assert logits.dtype == np.float32


def test_reordered_rows_take_history_and_source_along():
    """From inputs to beams, and among beams."""
    backend = FakeBackend(told)
    memory = backend.encode(np.array([[5], [8]]), ONE)
    cache = backend.start(memory, 2, None)
    backend.step(np.array([[1], [2]]), ONE, cache)
    cache.reorder(np.array([0, 0, 1, 1]))
    logits = backend.step(np.array([[3], [4], [5], [6]]), np.ones(4, dtype=np.int64), cache)
    assert logits.tolist() == [[2, 4, 5], [2, 5, 5], [2, 7, 8], [2, 8, 8]]
    cache.reorder(np.array([1, 1, 3, 2]))
    assert cache.histories == [(1, 4), (1, 4), (2, 6), (2, 5)]


def test_beams_share_the_source_of_their_input():
    """Row r belongs to input r // beams."""
    backend = FakeBackend(told)
    memory = backend.encode(np.array([[5], [8]]), ONE)
    assert backend.start(memory, 6, None).sources == [(5,)] * 3 + [(8,)] * 3


def test_a_capacity_is_kept():
    """What fits, fits; one more is refused and changes nothing."""
    backend = FakeBackend(told)
    cache = backend.start(None, 1, 3)
    backend.step(np.array([[1, 2, 3]]), np.array([3]), cache)
    with pytest.raises(CapacityError, match="more than the 3 tokens"):
        backend.step(np.array([[4]]), np.array([1]), cache)
    assert cache.length.tolist() == [3]


def test_pooling_and_features():
    """An encoder-only answer; features are told by their first band."""
    backend = FakeBackend(told)
    assert backend.pool(np.array([[4, 5, 0]]), np.array([2])).tolist() == [[0, 0, 9]]
    features = np.ones((1, 2, 4), dtype=np.float32)
    assert backend.encode(features, np.array([2])) == [(1, 1)]


def test_pooling_of_pairs_and_of_tokens():
    """Types of tokens count unless all are 0; what each token is answered is padded."""
    backend = FakeBackend(random_answer(5))
    ids, lengths = np.array([[4, 5, 6], [7, 8, 0]]), np.array([3, 2])
    plain = backend.pool(ids, lengths)
    np.testing.assert_array_equal(backend.pool(ids, lengths, np.zeros_like(ids)), plain)
    assert not np.equal(backend.pool(ids, lengths, np.ones_like(ids)), plain).any()
    tokens = FakeBackend(lambda _, source: np.array([[i, 2.0 * i] for i in source]))
    answered = tokens.pool(ids, lengths)
    assert answered.tolist() == [[[4, 8], [5, 10], [6, 12]], [[7, 14], [8, 16], [0, 0]]]


def test_calls_are_recorded():
    """So that a test can tell how often what was done."""
    backend = FakeBackend(told)
    cache = backend.start(None, 2, None)
    backend.step(np.array([[1, 2], [3, 0]]), np.array([2, 1]), cache)
    assert backend.calls == [
        Call(name="start", rows=2),
        Call(name="step", rows=2, tokens=((1, 2), (3,))),
    ]


def test_random_answers_are_the_same_in_every_run():
    """They differ by history, source and seed, and by nothing else."""
    answer = random_answer(7, seed=3)
    np.testing.assert_array_equal(answer((1, 2), None), random_answer(7, seed=3)((1, 2), None))
    others = [answer((2, 1), None), answer((1,), (2,)), random_answer(7, seed=4)((1, 2), None)]
    for other in others:
        assert not np.array_equal(answer((1, 2), None), other)


def test_candidates_are_the_largest_in_no_useful_order():
    """Of equal logits the last; all logits can be fetched until the next step, which is a call."""
    backend = FakeBackend(lambda *_: np.array([1.0, 4.0, 2.0, 2.0, 3.0]), top_k=3)
    cache = backend.start(None, 1, None)
    found = backend.step(np.array([[1]]), np.ones(1, dtype=np.int64), cache)
    assert (found.ids.tolist(), found.values.tolist()) == ([[3, 4, 1]], [[2.0, 3.0, 4.0]])
    assert found.log_sum_exp == pytest.approx(np.log(np.exp([1, 4, 2, 2, 3]).sum()))
    assert found.vocab == 5
    assert backend.calls[-1].name == "step"
    assert all_logits(found).tolist() == [[1, 4, 2, 2, 3]]
    assert backend.calls[-1] == Call(name="logits", rows=1)
    backend.step(np.array([[1]]), np.ones(1, dtype=np.int64), cache)
    with pytest.raises(BackendError, match="a step before the last"):
        found.logits()
