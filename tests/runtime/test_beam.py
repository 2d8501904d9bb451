"""Beam search: exhaustive with beams enough, equal to a plain search with few, honest scores."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from requests_of import decode_prompts

from seq2edge.errors import BackendError
from seq2edge.runtime.beam import top_k
from seq2edge.runtime.fake import FakeBackend, random_answer
from seq2edge.runtime.likelihood import log_softmax
from seq2edge.runtime.options import DecodeOptions

CLOSE = 1e-4
CALM = settings(max_examples=60)
THOROUGH = settings(max_examples=300)
SEEDS = st.integers(0, 10_000)
PENALTIES = st.sampled_from([-2.0, -1.0, 0.0, 0.6, 1.0, 2.0])
STOPPING = st.sampled_from([True, False, "never"])
PROMPT = st.lists(st.integers(0, 7), min_size=1, max_size=4)
START = (0,)


def moody_answer(vocab, seed, ends):
    """Sure at some lengths and unsure at others, with ends likely or not: stopping then matters."""
    plain = random_answer(vocab, seed, spread=1.0)
    rng = np.random.default_rng(seed)
    spread, push = rng.choice([0.1, 1.0, 5.0], size=32), rng.choice([-2.0, 0.0, 3.0], size=32)

    def answer(history, source):
        logits = plain(history, source) * spread[len(history)]
        logits[:ends] += push[len(history)]
        return logits

    return answer


def likelihoods(answer, ids):
    """Log-probabilities of every next token after the start and `ids`."""
    return log_softmax(answer(START + ids, None))


def likelihood(answer, ids):
    """Log-probability of a whole sequence."""
    return sum(likelihoods(answer, ids[:i])[token] for i, token in enumerate(ids))


def search(answer, options, limit, prompts=(START,)):
    """What our decode loop finds: (ids, score) for each prompt, best first."""
    results = decode_prompts(FakeBackend(answer), prompts, options, max_new_tokens=limit)
    return [[(found.ids, found.score) for found in sequences] for sequences in results]


def every_sequence(vocab, limit, ends):
    """All that can be said in `limit` tokens: ended early, or as long as allowed."""
    for length in range(1, limit + 1):
        for ids in itertools.product(range(vocab), repeat=length):
            complete = ids[-1] in ends or length == limit
            if complete and ends.isdisjoint(ids[:-1]):
                yield ids


def plain_beam_search(answer, options, limit):
    """One input, lists of (score, ids), nothing clever: the rules of transformers once more."""
    ends, beams, penalty = set(options.eos_token_id), options.num_beams, options.length_penalty
    kept = max(2, 1 + len(ends)) * beams
    going, finished = [(0.0, ())], []
    for length in range(1, limit + 1):
        candidates = [
            (score + value, (*ids, token))
            for score, ids in going
            for token, value in enumerate(likelihoods(answer, ids))
        ]
        candidates = sorted(candidates, key=lambda candidate: -candidate[0])[:kept]
        for score, ids in candidates[:beams]:
            if ids[-1] in ends or length == limit:
                finished.append((score / length**penalty, ids))
        finished = sorted(finished, key=lambda found: -found[0])[:beams]
        going = [c for c in candidates if c[1][-1] not in ends][:beams]
        if len(finished) < beams:
            continue
        distant = options.early_stopping == "never" and penalty > 0
        best = going[0][0] / (limit if distant else length) ** penalty
        if options.early_stopping is True or best <= finished[-1][0]:
            break
    return [(ids, score) for score, ids in finished[: options.num_return_sequences]]


def assert_same(found, wanted):
    """The same sequences in the same order, scores as close as float32 allows."""
    assert [ids for ids, _ in found] == [ids for ids, _ in wanted]
    assert [score for _, score in found] == pytest.approx(
        [s for _, s in wanted], abs=CLOSE, rel=1e-6
    )


@CALM
@given(SEEDS, PENALTIES, st.sampled_from([False, "never"]), st.integers(1, 4), st.integers(1, 2))
def test_with_beams_enough_the_search_is_exhaustive(seed, penalty, stopping, limit, ends):
    """The best of all sequences there are, found by trying every one of them."""
    answer, vocab = random_answer(3, seed), 3
    eos = frozenset(range(ends))
    everything = [
        (ids, likelihood(answer, ids) / len(ids) ** penalty)
        for ids in every_sequence(vocab, limit, eos)
    ]
    everything.sort(key=lambda found: -found[1])
    best = everything[:5]
    options = DecodeOptions(
        num_beams=40,
        num_return_sequences=len(best),
        length_penalty=penalty,
        early_stopping=stopping,
        eos_token_id=tuple(eos),
    )
    assert_same(search(answer, options, limit)[0], best)


@THOROUGH
@given(SEEDS, PENALTIES, STOPPING, st.integers(2, 4), st.integers(1, 12), st.integers(1, 3))
def test_with_few_beams_it_is_a_plain_beam_search(seed, penalty, stopping, beams, limit, ends):
    """All three kinds of early stopping, every result, up to three end tokens."""
    answer = moody_answer(10, seed, ends)
    options = DecodeOptions(
        num_beams=beams,
        num_return_sequences=beams,
        length_penalty=penalty,
        early_stopping=stopping,
        eos_token_id=tuple(range(ends)),
    )
    wanted = plain_beam_search(answer, options, limit)
    assert_same(search(answer, options, limit)[0], wanted)


def test_a_negative_length_penalty_bounds_by_the_present_length():
    """Longer is worse then: the limit's length would give up a sequence that still wins."""
    steps = {(): [0.4, 0.45, 0.1, 0.05], (1,): [0.2, 0.6, 0.1, 0.1], (1, 1): [0.9, 0.1, 0.0, 0.0]}

    def answer(history, _):
        likely = steps.get(history[1:], [0.25] * 4)
        return np.log(np.array(likely) + 1e-9)

    options = DecodeOptions(
        num_beams=2,
        num_return_sequences=2,
        early_stopping="never",
        length_penalty=-1.0,
        eos_token_id=0,
    )
    found = search(answer, options, 10)[0]
    assert [ids for ids, _ in found] == [(0,), (1, 1, 0)]
    assert_same(found, plain_beam_search(answer, options, 10))


@THOROUGH
@given(SEEDS, PENALTIES, STOPPING, st.lists(PROMPT, min_size=2, max_size=4))
def test_inputs_of_a_batch_do_not_see_each_other(seed, penalty, stopping, prompts):
    """Each gives what it gives alone, whenever the others end."""
    answer = moody_answer(8, seed, 1)
    options = DecodeOptions(
        num_beams=3,
        num_return_sequences=2,
        length_penalty=penalty,
        early_stopping=stopping,
        eos_token_id=0,
        repetition_penalty=1.3,
    )
    together = search(answer, options, 12, prompts)
    alone = [search(answer, options, 12, [prompt])[0] for prompt in prompts]
    for found, wanted in zip(together, alone, strict=True):
        assert_same(found, wanted)


@CALM
@given(SEEDS, PENALTIES, STOPPING, st.integers(2, 5), st.integers(1, 7))
def test_results_are_what_they_say(seed, penalty, stopping, beams, limit):
    """Ordered, all different, ended by the end token or the limit; scores can be recomputed."""
    answer = random_answer(8, seed)
    options = DecodeOptions(
        num_beams=beams,
        num_return_sequences=beams,
        length_penalty=penalty,
        early_stopping=stopping,
        eos_token_id=1,
    )
    results = decode_prompts(FakeBackend(answer), [START], options, max_new_tokens=limit)[0]
    assert len({found.ids for found in results}) == len(results) == beams
    scores = [found.score for found in results]
    assert scores == sorted(scores, reverse=True)
    for found in results:
        assert 1 not in found.ids[:-1]
        assert found.finished == (found.ids[-1] == 1)
        assert found.finished or len(found.ids) == limit
        wanted = likelihood(answer, found.ids) / len(found.ids) ** penalty
        assert found.score == pytest.approx(wanted, abs=CLOSE)


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_an_error(beams, value):
    """A damaged or overflowing model gives no tokens at all."""
    backend = FakeBackend(lambda history, _: np.array([1.0, value if len(history) > 2 else 2.0]))
    with pytest.raises(BackendError, match="NaN or infinity; check the bundle"):
        decode_prompts(backend, [START], DecodeOptions(num_beams=beams), max_new_tokens=6)


def test_all_beams_of_an_input_read_one_source():
    """The source is encoded once an input; prompts are read once an input, then spread."""
    backend = FakeBackend(random_answer(8))
    options = DecodeOptions(num_beams=3)
    sources = [[3, 4], [5, 6]]
    decode_prompts(backend, [START, START], options, max_new_tokens=3, sources=sources)
    calls = [(call.name, call.rows) for call in backend.calls]
    assert calls == [
        ("encode", 2),
        ("start", 2),
        ("step", 2),
        *[("reorder", 6), ("step", 6)] * 2,
    ]


@CALM
@given(SEEDS, st.integers(1, 90 * 64), st.integers(1, 12), st.integers(0, 1000))
def test_the_largest_values_and_the_first_of_equals(seed, width, k, variety):
    """As a stable sort of everything would find them; integers, so that many are equal."""
    values = np.random.default_rng(seed).integers(0, variety + 1, width).astype(np.float32)
    k = min(k, len(values))
    order = np.argsort(-values, kind="stable")[:k]
    found, places = top_k(values, k)
    np.testing.assert_array_equal(places, order)
    np.testing.assert_array_equal(found, values[order])


def test_the_largest_values_with_forbidden_ones():
    """Minus infinity, in all but a few places, as filters leave it."""
    for place in (700, 20 * 64 - 1):
        values = np.full(20 * 64, -np.inf, dtype=np.float32)
        values[place] = 1.0
        found, places = top_k(values, 4)
        assert places[0] == place
        assert np.isneginf(found[1:]).all()
