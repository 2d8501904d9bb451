"""Every filter changes the scores as transformers' own processor does."""

from __future__ import annotations

from collections import Counter

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
CALM = settings(max_examples=150)


@st.composite
def histories(draw, shortest=1):
    """Rows of one prompt, each with as many generated tokens of its own."""
    rows, start = draw(st.integers(1, 3)), draw(st.integers(shortest, 5))
    generated = draw(st.integers(0, 4))
    prompt = draw(st.lists(TOKEN, min_size=start, max_size=start))
    row = st.lists(TOKEN, min_size=generated, max_size=generated)
    ends = draw(st.lists(row, min_size=rows, max_size=rows))
    return [prompt + end for end in ends], start, generated


def history_of(case, limit=6, source=None):
    """Our record of that batch."""
    rows, start, generated = case
    history = History(rows[0][:start], len(rows), limit, source)
    for i in range(generated):
        history.append(np.array([row[start + i] for row in rows]))
    return history


def scores_of(case):
    """Scores of both signs, the same for the same batch."""
    key = [len(case[0]), case[1], case[2], *(token for row in case[0] for token in row)]
    return np.random.default_rng(key).standard_normal((len(case[0]), VOCAB)).astype(np.float32)


def ours(case, options, limit=6, source=None):
    """The scores after all filters of these options."""
    scores = scores_of(case)
    for filter_ in make_filters(options):
        filter_(history_of(case, limit, source), scores)
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
@given(histories(), st.integers(1, 4), st.none() | st.lists(TOKEN, min_size=1, max_size=9))
def test_no_ngrams_of_the_source(case, size, source):
    """Of an encoder's ids, or of the prompt; also where either is shorter than one n-gram."""
    ids = case[0][0][: case[1]] if source is None else source
    reference = logits_process.EncoderNoRepeatNGramLogitsProcessor(size, torch.tensor([ids]))
    found = ours(case, DecodeOptions(encoder_no_repeat_ngram_size=size), source=source)
    np.testing.assert_array_equal(found, theirs(case, reference))


@CALM
@given(
    histories(),
    st.floats(0.3, 3).filter(lambda penalty: penalty != 1.0),
    st.none() | st.lists(TOKEN, min_size=1, max_size=9),
)
def test_repetition_penalty_of_the_source(case, penalty, source):
    """Its tokens become likelier, each once."""
    ids = case[0][0][: case[1]] if source is None else source
    reference = logits_process.EncoderRepetitionPenaltyLogitsProcessor(penalty, torch.tensor([ids]))
    found = ours(case, DecodeOptions(encoder_repetition_penalty=penalty), source=source)
    np.testing.assert_allclose(found, theirs(case, reference), rtol=1e-6)


@CALM
@given(histories(), st.integers(0, 3), st.floats(0.2, 5), st.booleans())
def test_exponential_decay_of_lengths(case, after, factor, forbidden):
    """Behind so many generated tokens; an end that is forbidden stays so."""
    decay = logits_process.ExponentialDecayLengthPenalty((after, factor), list(ENDS), case[1])
    least = logits_process.MinNewTokensLengthLogitsProcessor(case[1], 9, list(ENDS))
    options = DecodeOptions(
        exponential_decay_length_penalty=(after, factor),
        min_new_tokens=9 * forbidden,
        eos_token_id=ENDS,
    )
    wanted = theirs(case, *[least] * forbidden, decay)
    np.testing.assert_allclose(ours(case, options), wanted, rtol=1e-5, atol=1e-6)


def test_an_end_that_grows_beyond_all_numbers_is_as_likely_as_can_be():
    """No infinity, which beam search could not compare."""
    case = ([[3] + [1] * 4], 1, 4)
    options = DecodeOptions(exponential_decay_length_penalty=(0, 1e300), eos_token_id=ENDS)
    found = ours(case, options)
    assert np.isfinite(found).all()
    assert found.argmax() in ENDS


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


def test_a_number_of_new_tokens_sets_a_length_of_all_aside():
    """As transformers takes them: a checkpoint's own min_length does not outlast the request."""
    case = ([[3, 1, 1]], 1, 2)
    both = DecodeOptions(min_length=9, min_new_tokens=2, eos_token_id=ENDS)
    np.testing.assert_array_equal(ours(case, both), scores_of(case))
    assert np.isneginf(ours(case, both.replace(min_new_tokens=0))[0, list(ENDS)]).all()


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


@CALM
@given(
    histories(),
    st.dictionaries(
        st.lists(TOKEN, min_size=1, max_size=4).map(tuple), st.floats(-5, 5), min_size=1, max_size=5
    ),
)
def test_sequence_bias(case, biases):
    """Single tokens, sequences that are begun, and sequences longer than the history."""
    pairs = [[list(ids), bias] for ids, bias in biases.items()]
    reference = logits_process.SequenceBiasLogitsProcessor(pairs)
    found = ours(case, DecodeOptions(sequence_bias=pairs))
    np.testing.assert_allclose(found, theirs(case, reference), rtol=1e-5, atol=1e-6)


@CALM
@given(histories(), st.floats(-2, 2), st.floats(-2, 2))
def test_penalties_of_generated_tokens(case, frequency, presence):
    """As OpenAI defines them: of every time that a token was generated, and of its being there."""
    rows, start, _ = case
    wanted = scores_of(case)
    for row, tokens in enumerate(rows):
        for token, count in Counter(tokens[start:]).items():
            wanted[row, token] -= np.float32(frequency * count + presence)
    options = DecodeOptions(frequency_penalty=frequency, presence_penalty=presence)
    np.testing.assert_allclose(ours(case, options), wanted, rtol=1e-5, atol=1e-6)


def test_history_follows_the_beams():
    """Rows take over their parents' tokens; the prompt stands before them."""
    history = History([3, 4], 4, 3)
    history.append(np.array([0, 1, 2, 3]))
    history.append(np.array([4, 5, 6, 0]), np.array([1, 1, 2, 2]))
    assert history.new_tokens.tolist() == [[1, 4], [1, 5], [2, 6], [2, 0]]
    assert history.tokens[1].tolist() == [3, 4, 1, 5]


@pytest.mark.parametrize("rows", [1, 3])
def test_history_has_room_for_every_new_token(rows):
    """Up to the limit, in every row."""
    history = History([3, 5], rows, 2)
    for _ in range(2):
        history.append(np.zeros(rows, dtype=np.int64))
    assert history.new_tokens.shape == (rows, 2)
    assert history.generated == history.limit
