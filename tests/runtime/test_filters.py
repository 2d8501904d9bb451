"""Every filter changes the scores as transformers' own processor does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process

from seq2edge.runtime.filters import NEVER, make_filters
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.sequences import History

VOCAB = 7
ENDS = (2, 5)
TOKEN = st.integers(0, VOCAB - 1)
CALM = settings(max_examples=150, deadline=None)


@st.composite
def histories(draw, shortest=1):
    """Rows of equal prompts' lengths with a few generated tokens, as one batch."""
    rows, start = draw(st.integers(1, 3)), draw(st.integers(shortest, 5))
    generated = draw(st.integers(0, 4))
    row = st.lists(TOKEN, min_size=start + generated, max_size=start + generated)
    return draw(st.lists(row, min_size=rows, max_size=rows)), start, generated


def history_of(case, limit=6):
    """Our record of that batch."""
    rows, start, generated = case
    history = History([np.array(row[:start]) for row in rows], 1, limit)
    for i in range(generated):
        history.append(np.array([row[start + i] for row in rows]))
    return history


def scores_of(case):
    """Scores of both signs, the same for the same batch."""
    key = [len(case[0]), case[1], case[2], *(token for row in case[0] for token in row)]
    return np.random.default_rng(key).standard_normal((len(case[0]), VOCAB)).astype(np.float32)


def ours(case, options, limit=6):
    """The scores after all filters of these options."""
    scores = scores_of(case)
    for filter_ in make_filters(options):
        filter_(history_of(case, limit), scores)
    return scores


def theirs(case, *processors):
    """The same by transformers."""
    scores = torch.from_numpy(scores_of(case))
    for processor in processors:
        scores = processor(torch.tensor(case[0]), scores)
    return scores.numpy()


@CALM
@given(histories(), st.floats(0.3, 3).filter(lambda penalty: penalty != 1.0))
def test_repetition_penalty(case, penalty):
    """Prompt and generated tokens count, each once, negative scores the other way."""
    reference = logits_process.RepetitionPenaltyLogitsProcessor(penalty)
    found = ours(case, DecodeOptions(repetition_penalty=penalty))
    np.testing.assert_allclose(found, theirs(case, reference), rtol=1e-6)


@CALM
@given(histories(), st.integers(1, 4))
def test_no_repeated_ngrams(case, size):
    """Histories shorter than one n-gram included."""
    reference = logits_process.NoRepeatNGramLogitsProcessor(size)
    found = ours(case, DecodeOptions(no_repeat_ngram_size=size))
    np.testing.assert_array_equal(found, theirs(case, reference))


@CALM
@given(histories(), st.lists(st.lists(TOKEN, min_size=1, max_size=4), min_size=1, max_size=4))
def test_bad_words(case, words):
    """Single tokens, sequences, sequences longer than the history; end tokens are spared."""
    reference = logits_process.NoBadWordsLogitsProcessor(words, eos_token_id=list(ENDS))
    found = ours(case, DecodeOptions(bad_words_ids=words, eos_token_id=ENDS))
    np.testing.assert_array_equal(found, theirs(case, reference))


@CALM
@given(histories(), st.integers(1, 9))
def test_minimum_lengths(case, least):
    """min_length counts the prompt, min_new_tokens does not."""
    whole = logits_process.MinLengthLogitsProcessor(least, list(ENDS))
    found = ours(case, DecodeOptions(min_length=least, eos_token_id=ENDS))
    np.testing.assert_array_equal(found, theirs(case, whole))
    new = logits_process.MinNewTokensLengthLogitsProcessor(case[1], least, list(ENDS))
    found = ours(case, DecodeOptions(min_new_tokens=least, eos_token_id=ENDS))
    np.testing.assert_array_equal(found, theirs(case, new))


def test_without_an_end_token_there_is_nothing_to_forbid():
    """A minimum alone changes nothing."""
    assert make_filters(DecodeOptions(min_length=5, min_new_tokens=5)) == []


@CALM
@given(histories(), TOKEN)
def test_forced_first_token(case, token):
    """Only after a start that stands alone."""
    reference = logits_process.ForcedBOSTokenLogitsProcessor(token)
    found = ours(case, DecodeOptions(forced_bos_token_id=token))
    np.testing.assert_array_equal(found, theirs(case, reference))


@CALM
@given(histories(), st.lists(TOKEN, min_size=1, max_size=2, unique=True))
def test_forced_last_token(case, tokens):
    """Exactly at the limit; several end tokens stay possible alike."""
    limit = 5
    reference = logits_process.ForcedEOSTokenLogitsProcessor(case[1] + limit, tokens)
    found = ours(case, DecodeOptions(forced_eos_token_id=tokens), limit)
    np.testing.assert_array_equal(found, theirs(case, reference))


@CALM
@given(histories(), st.lists(TOKEN, min_size=1, max_size=3), st.none() | TOKEN)
def test_suppressed_tokens(case, tokens, forced):
    """Everywhere, or at the model's own first choice, which follows a forced token."""
    always = logits_process.SuppressTokensLogitsProcessor(tokens)
    found = ours(case, DecodeOptions(suppress_tokens=tokens))
    np.testing.assert_array_equal(found, theirs(case, always))
    begin = case[1] if case[1] > 1 or forced is None else case[1] + 1
    reference = [logits_process.SuppressTokensAtBeginLogitsProcessor(tokens, begin)]
    if forced is not None:
        reference.insert(0, logits_process.ForcedBOSTokenLogitsProcessor(forced))
    options = DecodeOptions(begin_suppress_tokens=tokens, forced_bos_token_id=forced)
    np.testing.assert_array_equal(ours(case, options), theirs(case, *reference))


def test_filters_run_in_the_order_of_transformers():
    """Forcing undoes a minimum length, suppressing undoes forcing."""
    case = ([[3]], 1, 0)
    options = DecodeOptions(min_new_tokens=3, forced_bos_token_id=2, eos_token_id=2)
    assert ours(case, options)[0].argmax() == 2
    assert (ours(case, options.replace(suppress_tokens=(2,))) == NEVER).all()


def test_no_options_no_filters():
    """Greedy search then need not copy its logits."""
    assert make_filters(DecodeOptions(eos_token_id=2, max_new_tokens=4)) == []


def test_padding_of_short_prompts_is_no_history():
    """A short prompt in a batch is treated as it is alone."""
    prompts = [np.array([3, 4, 3, 4]), np.array([3])]
    history = History(prompts, 1, 4)
    options = DecodeOptions(
        no_repeat_ngram_size=1, repetition_penalty=2.0, bad_words_ids=[[6, 3, 1]]
    )
    scores = np.ones((2, VOCAB), dtype=np.float32)
    for filter_ in make_filters(options):
        filter_(history, scores)
    assert scores[1].tolist() == [1, 1, 1, NEVER, 1, 1, 1]
    assert scores[0].tolist() == [1, 1, 1, NEVER, NEVER, 1, 1]


def test_history_follows_the_beams():
    """Rows take over their parents' tokens; the prompts stand at their ends."""
    history = History([np.array([3, 4]), np.array([5])], 2, 3)
    history.append(np.array([0, 1, 2, 3]))
    history.append(np.array([4, 5, 6, 0]), np.array([1, 1, 2, 2]))
    assert history.new_tokens.tolist() == [[1, 4], [1, 5], [2, 6], [2, 0]]
    assert history.tokens[1].tolist() == [3, 4, 1, 5]
    assert history.tokens[3].tolist() == [-1, 5, 2, 0]


@pytest.mark.parametrize("beams", [1, 3])
def test_history_has_room_for_every_new_token(beams):
    """Up to the limit, for every beam of every prompt."""
    history = History([np.array([3]), np.array([5])], beams, 2)
    for _ in range(2):
        history.append(np.zeros(2 * beams, dtype=np.int64))
    assert history.new_tokens.shape == (2 * beams, 2)
    assert history.generated == history.limit
