"""What is left to draw from is what transformers leaves, and draws follow its probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from requests_of import decode_prompts
from scipy import stats
from transformers.generation import logits_process as theirs

from seq2edge.runtime.fake import FakeBackend, random_answer
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.sampling import draw, draw_several, remaining

VOCAB = 23
CHANCES = st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.9, 0.999, 1.0])
OPTIONS = {
    "temperature": st.sampled_from([0.1, 0.7, 1.0, 3.0]),
    "top_k": st.sampled_from([0, 1, 3, 50]),
    "top_p": CHANCES,
    "min_p": CHANCES,
    "typical_p": st.sampled_from([0.05, 0.3, 0.9, 1.0]),
    "epsilon_cutoff": st.sampled_from([0.0, 0.001, 0.02, 0.2, 0.9]),
    "eta_cutoff": st.sampled_from([0.0, 0.001, 0.02, 0.2, 0.9]),
    "num_beams": st.sampled_from([1, 3]),
    "eos_token_id": st.sampled_from([(), (2,), (2, 3, 4)]),
}


def left_by_transformers(scores, options):
    """Scores after its processors for sampling, minus infinity where a token is left out."""
    least = 1
    if options.num_beams > 1:
        least = len(options.eos_token_id) + 1 if options.eos_token_id else 2
    chain = [theirs.TemperatureLogitsWarper(options.temperature)]
    if options.top_k:
        chain.append(theirs.TopKLogitsWarper(options.top_k, min_tokens_to_keep=least))
    if options.top_p < 1:
        chain.append(theirs.TopPLogitsWarper(options.top_p, min_tokens_to_keep=least))
    if options.min_p > 0:
        chain.append(theirs.MinPLogitsWarper(options.min_p, min_tokens_to_keep=least))
    if options.typical_p < 1:
        chain.append(theirs.TypicalLogitsWarper(options.typical_p, min_tokens_to_keep=least))
    if options.epsilon_cutoff:
        chain.append(theirs.EpsilonLogitsWarper(options.epsilon_cutoff, min_tokens_to_keep=least))
    if options.eta_cutoff:
        chain.append(theirs.EtaLogitsWarper(options.eta_cutoff, min_tokens_to_keep=least))
    values = torch.from_numpy(scores)[None]
    for processor in chain:
        values = processor(torch.zeros(1, 1, dtype=torch.int64), values)
    return values[0].numpy()


def left_by_us(scores, options):
    """The same from ours."""
    left = remaining(scores, options)
    values = np.full(len(scores), -np.inf, dtype=np.float32)
    values[left.ids] = left.scores
    return values


@settings(max_examples=600)
@given(st.integers(0, 9999), st.booleans(), st.fixed_dictionaries({}, optional=OPTIONS))
def test_what_is_left_is_what_transformers_leaves(seed, forbidden, values):
    """Every processor and their combinations, value by value; some tokens forbidden before."""
    rng = np.random.default_rng(seed)
    scores = (rng.standard_normal(VOCAB) * 3).astype(np.float32)
    if forbidden:
        scores[rng.integers(0, VOCAB, 5)] = -np.inf
    options = DecodeOptions(do_sample=True, **values)
    wanted = left_by_transformers(scores, options)
    np.testing.assert_allclose(left_by_us(scores, options), wanted, rtol=1e-6)


def test_a_large_vocabulary_with_equal_scores_at_the_bound():
    """All that are equal to the k-th largest stay, as there."""
    scores = np.random.default_rng(0).integers(0, 40, 60 * 64).astype(np.float32)
    options = DecodeOptions(do_sample=True, top_k=70)
    wanted = left_by_transformers(scores, options)
    np.testing.assert_array_equal(left_by_us(scores, options), wanted)
    assert np.isfinite(wanted).sum() > 70


COMBINATIONS = [
    {},
    {"temperature": 0.5},
    {"top_k": 4},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"typical_p": 0.7},
    {"temperature": 1.7, "top_k": 9, "top_p": 0.9},
    {"temperature": 0.8, "top_k": 12, "top_p": 0.95, "min_p": 0.05, "typical_p": 0.9},
    {"repetition_penalty": 1.6, "suppress_tokens": (4, 7), "sequence_bias": [[[3], 1.5]]},
]


@pytest.mark.parametrize("values", COMBINATIONS, ids=lambda values: "+".join(values) or "plain")
def test_draws_follow_the_probabilities_of_transformers(values):
    """A chi-square test of 100,000 draws, and of what the decode loop draws first in 2,000 rows."""
    logits = (np.random.default_rng(1).standard_normal(16) * 2).astype(np.float32)
    options = DecodeOptions(do_sample=True, seed=7, num_return_sequences=2000, **values)
    history, scores = torch.tensor([[5]]), torch.from_numpy(logits)[None].clone()
    if "sequence_bias" in values:
        bias = [[list(ids), bias] for ids, bias in options.sequence_bias]
        for processor in (
            theirs.SequenceBiasLogitsProcessor(bias),
            theirs.RepetitionPenaltyLogitsProcessor(options.repetition_penalty),
            theirs.SuppressTokensLogitsProcessor(options.suppress_tokens),
        ):
            scores = processor(history, scores)
    filtered = scores[0].numpy()
    kept = left_by_transformers(filtered, options)
    likely = torch.from_numpy(kept).double().softmax(-1).numpy()
    numbers = np.random.default_rng(2).random(100_000)
    assert_drawn(draw(remaining(filtered, options), numbers), likely)
    backend = FakeBackend(lambda *_: logits)
    (found,) = decode_prompts(backend, [[5]], options, max_new_tokens=1)
    assert_drawn([sequence.ids[0] for sequence in found], likely)


def assert_drawn(tokens, likely):
    """That the tokens were drawn by these probabilities: a wrong one in 10,000 tests of this."""
    counts, possible = np.bincount(tokens, minlength=len(likely)), likely > 0
    assert (counts[~possible] == 0).all()
    if possible.sum() > 1:
        wanted = likely[possible] * len(tokens)
        assert stats.chisquare(counts[possible], wanted).pvalue > 1e-4


def test_a_row_draws_the_same_whatever_is_beside_it():
    """Alone, in a batch, as one of several, with more rows at a time or fewer."""
    options = DecodeOptions(do_sample=True, seed=3, eos_token_id=2)
    prompts = [[4], [5, 6], [7, 8, 9], [4, 4]]
    alone = [
        decode_prompts(FakeBackend(random_answer(30)), [p], options, max_new_tokens=9)[0]
        for p in prompts
    ]
    for rows in (1, 2, 64):
        backend = FakeBackend(random_answer(30))
        assert decode_prompts(backend, prompts, options, max_new_tokens=9, rows=rows) == alone
    several = options.replace(num_return_sequences=3)
    (found,) = decode_prompts(FakeBackend(random_answer(30)), [[4]], several, max_new_tokens=9)
    assert alone[0][0] in found
    assert len({sequence.ids for sequence in found}) == 3


def test_no_seed_draws_others_every_time():
    """And a seed the same."""
    backend = FakeBackend(random_answer(50))
    for seed, different in ((None, 2), (5, 1)):
        options = DecodeOptions(do_sample=True, seed=seed)
        found = {
            decode_prompts(backend, [[4]], options, max_new_tokens=20)[0][0].ids for _ in range(2)
        }
        assert len(found) == different


def test_several_draws_without_putting_back():
    """Of three with odds 5:3:2, two at a time: the odds of pairs, in their order, are known."""
    odds, rng = np.array([0.5, 0.0, 0.3, 0.2]), np.random.default_rng(0)
    pairs = [tuple(draw_several(odds, 2, rng).tolist()) for _ in range(30_000)]
    kinds = sorted(set(pairs))
    assert len(kinds) == 6
    wanted = [odds[a] * odds[b] / (1 - odds[a]) for a, b in kinds]
    counts = np.array([pairs.count(kind) for kind in kinds])
    assert stats.chisquare(counts, np.array(wanted) * len(pairs)).pvalue > 1e-4
    assert sorted(draw_several(odds, 9, rng).tolist()) == [0, 2, 3]


def test_drawn_beams_are_honest_sequences():
    """All different, ordered, their scores those of the tokens after temperature and top-k."""
    options = DecodeOptions(
        do_sample=True, seed=1, num_beams=4, num_return_sequences=4, eos_token_id=2, top_k=6
    )
    (found,) = decode_prompts(FakeBackend(random_answer(20)), [[4]], options, max_new_tokens=6)
    scores = [sequence.score for sequence in found]
    assert scores == sorted(scores, reverse=True)
    assert len({sequence.ids for sequence in found}) == 4
    again = decode_prompts(FakeBackend(random_answer(20)), [[4], [5]], options, max_new_tokens=6)
    assert again[0] == found
