"""What is chosen among candidates is what is chosen among all logits."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from requests_of import decode_prompts

from seq2edge.errors import BackendError, OptionError
from seq2edge.runtime.backend import Candidates
from seq2edge.runtime.candidates import ScoreBuffer, TopCandidates
from seq2edge.runtime.fake import FakeBackend, random_answer
from seq2edge.runtime.filters import NEVER, make_filters
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.search import RowSearch
from seq2edge.runtime.sequences import History

VOCAB, LIMIT = 40, 7
TOKEN = st.integers(0, VOCAB - 1)
TOKENS = st.lists(TOKEN, max_size=3).map(tuple)
PROMPTS = st.lists(st.lists(TOKEN, min_size=1, max_size=3), min_size=1, max_size=3)
THOROUGH = settings(max_examples=400)
OPTIONS = {
    "num_beams": st.integers(1, 4),
    "length_penalty": st.sampled_from([0.0, 1.0]),
    "early_stopping": st.sampled_from([True, False, "never"]),
    "eos_token_id": st.sampled_from([(), (2,), (2, 3, 4)]),
    "repetition_penalty": st.sampled_from([0.7, 1.0, 1.0, 1.5]),
    "no_repeat_ngram_size": st.sampled_from([0, 0, 1, 2]),
    "encoder_no_repeat_ngram_size": st.sampled_from([0, 0, 1, 2]),
    "encoder_repetition_penalty": st.sampled_from([0.7, 1.0, 1.0, 1.5]),
    "exponential_decay_length_penalty": st.sampled_from([None, None, (1, 1.5), (0, 0.5)]),
    "min_new_tokens": st.sampled_from([0, 3]),
    "min_length": st.sampled_from([0, 4]),
    "forced_bos_token_id": st.sampled_from([None, None, 5]),
    "forced_eos_token_id": st.sampled_from([(), (2,), (2, 9, 30)]),
    "suppress_tokens": TOKENS,
    "begin_suppress_tokens": TOKENS,
    "bad_words_ids": st.lists(st.lists(TOKEN, min_size=1, max_size=2), max_size=3).map(
        lambda words: tuple(map(tuple, words))
    ),
}


def rounded(answer, step):
    """Logits of which many are equal, as half precision gives them; all where the step is wide."""
    return lambda history, source: np.round(answer(history, source) / step) * step


def found(answer, prompts, options, top_k=0):
    """Tokens and scores to the last bit, and how often all logits were fetched."""
    backend = FakeBackend(answer, top_k=top_k)
    results = decode_prompts(backend, prompts, options, max_new_tokens=LIMIT)
    return results, sum(call.name == "logits" for call in backend.calls)


def found_among_all(answer, prompts, options):
    """The same from all logits: what a caller changes may make any token likelier."""
    unchanged = [lambda _, scores: scores]
    backend = FakeBackend(answer)
    return decode_prompts(backend, prompts, options, max_new_tokens=LIMIT, processors=unchanged)


@THOROUGH
@example(23, [[0, 6]], 2, 2.0, {"repetition_penalty": 1.5})  # equal only after the penalty
@example(23, [[0, 6]], 0, 2.0, {"repetition_penalty": 1.5})
@given(
    st.integers(0, 9999),
    PROMPTS,
    st.just(0) | st.integers(2, VOCAB),
    st.sampled_from([1e-6, 0.5, 2.0, 100.0]),
    st.fixed_dictionaries({}, optional=OPTIONS),
)
def test_candidates_decide_as_all_logits_do(seed, prompts, top_k, step, values):
    """Every option and number of candidates; many logits equal, and the last of them given.

    Of a backend that gives all logits (0) the largest are found by the scheduler.
    """
    options, answer = DecodeOptions(**values), rounded(random_answer(VOCAB, seed), step)
    try:
        wanted = found_among_all(answer, prompts, options)
    except OptionError as error:  # they leave nothing to choose
        with pytest.raises(OptionError, match=re.escape(str(error))):
            found(answer, prompts, options, top_k)
        return
    assert found(answer, prompts, options, top_k)[0] == wanted


FORBIDS = {
    name: values
    for name, values in OPTIONS.items()
    if name not in ("repetition_penalty", "encoder_repetition_penalty", "num_beams")
    and "decay" not in name
}


@THOROUGH
@given(
    st.integers(0, 9999),
    PROMPTS,
    st.integers(8, VOCAB),
    st.integers(2, 4),
    st.fixed_dictionaries({}, optional=FORBIDS),
)
def test_what_is_forbidden_is_shared_out_among_candidates(seed, prompts, top_k, beams, values):
    """As among all logits, but for the last bits of scores."""
    options = DecodeOptions(num_beams=beams, renormalize_logits=True, **values)
    answer = random_answer(VOCAB, seed)
    try:
        wanted = found_among_all(answer, prompts, options)
    except OptionError:
        return
    answers, _ = found(answer, prompts, options, top_k)
    for mine, theirs in zip(answers, wanted, strict=True):
        assert [each.ids for each in mine] == [each.ids for each in theirs]
        scores = [each.score for each in theirs]
        assert [each.score for each in mine] == pytest.approx(scores, abs=1e-5)


def test_forbidden_tokens_are_shared_out_without_fetching_more_than_once_a_step():
    """The candidates decide; of all logits only those are read that are forbidden."""
    forbids = {"suppress_tokens": (1, 7, 9), "num_beams": 4}
    answer = random_answer(400, 3)
    before, _ = found(answer, [[5]], DecodeOptions(**forbids))
    options = DecodeOptions(**forbids, renormalize_logits=True)
    wanted = found_among_all(answer, [[5]], options)
    (best,), fetched = found(answer, [[5]], options, top_k=16)
    assert best[0].score == pytest.approx(wanted[0][0].score, abs=1e-5)
    assert best[0].score > before[0][0].score
    assert fetched <= LIMIT


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"suppress_tokens": (1, 7, 9), "bad_words_ids": ((5,), (6, 8)), "min_new_tokens": 3},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "begin_suppress_tokens": (4,)},
    ],
)
def test_candidates_are_enough_for_what_only_forbids(beams, values):
    """A few numbers a step, whatever is forbidden."""
    options = DecodeOptions(num_beams=beams, eos_token_id=2, **values)
    answer = random_answer(400, 3)
    wanted, _ = found(answer, [[5], [6]], options)
    assert found(answer, [[5], [6]], options, top_k=16) == (wanted, 0)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(
    ("values", "fetched"),
    [
        ({"forced_bos_token_id": 7}, 1),
        ({"forced_eos_token_id": (9,)}, 1),
        ({"repetition_penalty": 0.8}, LIMIT),
        ({"suppress_tokens": tuple(range(400)), "eos_token_id": ()}, LIMIT),
    ],
)
def test_all_logits_are_fetched_where_candidates_do_not_decide(beams, values, fetched):
    """Tokens that are forced, only in that step; those made likelier; all candidates forbidden."""
    options, answer = DecodeOptions(num_beams=beams, **values), random_answer(401, 3)
    wanted, _ = found(answer, [[5]], options)
    assert found(answer, [[5]], options, top_k=16) == (wanted, fetched)


@pytest.mark.parametrize("beams", [1, 2])
def test_of_several_forced_tokens_one_may_be_no_candidate(beams):
    """The first of them is the last token, though the second alone is among the largest."""
    options = DecodeOptions(num_beams=beams, eos_token_id=7, forced_eos_token_id=(7, 9))
    logits = np.linspace(-9, -1, 40)[np.random.default_rng(0).permutation(40)]
    logits[[7, 9]] = -20.0, 0.0
    results, _ = found(lambda *_: logits, [[5]], options, top_k=8)
    assert results == found(lambda *_: logits, [[5]], options)[0]
    assert results[0][0].ids[-1] == 7


@pytest.mark.parametrize(
    ("beams", "top_k", "fetched"), [(1, 2, 0), (3, 7, 0), (3, 6, 1), (3, 5, 3), (3, 2, LIMIT)]
)
def test_one_candidate_more_is_needed_than_is_taken(beams, top_k, fetched):
    """Beam search takes two a beam: all of one row in the first step, of several rows later."""
    options, answer = DecodeOptions(num_beams=beams, eos_token_id=2), random_answer(400, 0)
    wanted, _ = found(answer, [[5]], options)
    assert found(answer, [[5]], options, top_k) == (wanted, fetched)


def test_equal_logits_at_the_bound_are_fetched():
    """The fake gives the last of equals; the first is chosen all the same."""

    def flat(history, _):
        logits = np.zeros(50)
        logits[[30, 20, 10]] = 1.0 if len(history) % 2 else [3.0, 2.0, 1.0]
        return logits

    options = DecodeOptions()
    results, fetched = found(flat, [[5]], options, top_k=3)
    assert results[0][0].ids == (10, 30, 10, 30, 10, 30, 10)
    assert fetched == 4
    assert found(flat, [[5]], options, top_k=4) == (results, 0)


def candidates(**changes):
    """Three of nine logits in two rows."""
    values = {
        "values": np.array([[1.0, 5.0, 5.0], [3.0, 2.0, 4.0]], dtype=np.float32),
        "ids": np.array([[8, 6, 2], [0, 4, 3]]),
        "log_sum_exp": np.array([6.0, 5.0]),
        "vocab": 9,
        "logits": lambda: np.arange(18, dtype=np.float32).reshape(2, 9),
    }
    return Candidates(**{**values, **changes})


def test_candidates_are_put_in_the_order_of_their_ids():
    """So that the first of equals is the lowest."""
    top = TopCandidates(candidates())
    assert top.ids.tolist() == [[2, 6, 8], [0, 3, 4]]
    assert top.logits.tolist() == [[5.0, 5.0, 1.0], [3.0, 4.0, 2.0]]


def test_of_equal_candidates_in_any_order_the_lowest_id_is_chosen():
    """As a device gives them."""
    history = History([5, 6], 2, 4)
    search = RowSearch(history, DecodeOptions())
    assert search.choose(candidates())[1] == [2, 3]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sum_that_is_no_number_is_an_error(value):
    """Though the largest logits are numbers: another one is none."""
    with pytest.raises(BackendError, match="NaN or infinity"):
        TopCandidates(candidates(log_sum_exp=np.array([6.0, value])))


def test_candidates_are_repeated_with_all_logits():
    """Rows of the same input side by side."""
    again = candidates().repeat(2)
    assert again.ids.tolist() == [[8, 6, 2], [8, 6, 2], [0, 4, 3], [0, 4, 3]]
    assert again.values[1].tolist() == [1.0, 5.0, 5.0]
    assert again.log_sum_exp.tolist() == [6.0, 6.0, 5.0, 5.0]
    assert again.logits()[:, 0].tolist() == [0, 0, 9, 9]


def test_a_step_leaves_nothing_in_the_sheet():
    """Later filters see the later candidates alone."""
    buffer, history = ScoreBuffer(), History([1], 2, 5)
    filters = make_filters(DecodeOptions(suppress_tokens=(3, 7), repetition_penalty=2.0))
    first, second = (
        TopCandidates(candidates()),
        TopCandidates(candidates(ids=np.array([[1, 2, 3]] * 2))),
    )
    for top, expected in (
        (first, [[5.0, 5.0, 1.0], [3.0, NEVER, 2.0]]),
        (second, [[0.5, 5.0, NEVER], [1.5, 2.0, NEVER]]),
    ):
        assert buffer.filtered(history, filters, top, top.logits).tolist() == expected
    assert np.isneginf(buffer._scores).all()
    assert buffer.filtered(history, [], first, first.logits) is first.logits
