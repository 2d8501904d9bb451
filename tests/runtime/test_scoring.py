"""Scores of sequences that the model did not write."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speaking import speaking_bundle

import seq2edge
from seq2edge.errors import CapacityError, InputError
from seq2edge.runtime.backend import all_logits
from seq2edge.runtime.fake import FakeBackend, random_answer
from seq2edge.runtime.likelihood import log_softmax, log_sum_exp
from seq2edge.runtime.scoring import ScoredSequence, score_labels

VOCAB = 6
IDS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def speaking(tmp_path_factory):
    """Exports the tiny model of that name with a tokenizer of words, once."""

    @functools.cache
    def get(name):
        bundle = speaking_bundle(tmp_path_factory.mktemp(name), name)
        return seq2edge.load(bundle, device="cpu", threads=1)

    return get


@settings(max_examples=60)
@given(st.integers(0, 99), st.lists(IDS, min_size=1, max_size=3), st.sampled_from([0, 2]))
def test_every_label_counts_once(seed, labels, top_k):
    """Each row by itself, however long its neighbours are; from candidates as from all logits."""
    answer = random_answer(VOCAB, seed)
    backend = FakeBackend(answer, top_k=top_k)
    scores = score_labels(backend, None, [[1, 2]] * len(labels), labels)
    for ids, score in zip(labels, scores, strict=True):
        expected = sum(
            log_softmax(np.float32([answer((1, 2, *ids[:i]), None)]))[0, ids[i]]
            for i in range(len(ids))
        )
        assert score.tokens == len(ids)
        assert score.log_likelihood == pytest.approx(expected, abs=1e-4)


def test_texts_are_scored_as_perplexity_always_was(speaking):
    """To the last bit the numbers of the loop that evaluation had before."""
    model = speaking("gpt2")
    texts = [" ".join(f"w{5 + (i * j) % 40}" for j in range(2 + i)) for i in range(5)]
    rows = [model.tokenizer.encode(text) for text in texts]
    tokens = np.array([ids + [0] * (len(rows[-1]) - len(ids)) for ids in rows])
    cache = model.backend.start(None, len(rows), tokens.shape[1])
    expected = np.zeros(len(rows))
    for i in range(tokens.shape[1] - 1):
        step = all_logits(
            model.backend.step(tokens[:, i : i + 1], np.ones(len(rows), dtype=np.int64), cache)
        )
        likely = np.take_along_axis(all_logits(step), tokens[:, i + 1 : i + 2], axis=1)[:, 0]
        inside = [i + 1 < len(ids) for ids in rows]
        expected += np.where(inside, log_sum_exp(all_logits(step)) - likely, 0.0)
    assert model.score(texts) == [
        ScoredSequence(log_likelihood=-total, tokens=len(ids) - 1)
        for total, ids in zip(expected.tolist(), rows, strict=True)
    ]
    assert model.score([]) == []


def test_what_a_model_generates_it_scores_alike(speaking):
    """The end token and a forced first one count; each target goes with its own source."""
    model = speaking("bart")
    texts = ["w5 w17 w40", "w8 w9"]
    options = model.options.replace(
        max_new_tokens=6, max_length=None, num_beams=1, num_return_sequences=1, min_length=0
    )
    written = [sequences[0] for sequences in model.generate(texts, options)]
    sources = [model.tokenizer.encode(text) for text in texts]
    scored = model.score_ids(sources, [sequence.ids for sequence in written])
    for sequence, score in zip(written, scored, strict=True):
        assert score.tokens == len(sequence.ids)
        assert score.log_likelihood == pytest.approx(sequence.score, abs=1e-4)
    forced = model.options.forced_bos_token_id
    target = [*([] if forced is None else [forced]), 7, 8, 2]
    assert model.score(texts[:1], ["w7 w8"]) == model.score_ids(sources[:1], [target])


@pytest.mark.parametrize(
    ("name", "call", "message"),
    [
        ("gpt2", lambda m: m.score("w5 w6"), "give a list"),
        ("gpt2", lambda m: m.score(["w5"], ["w6"]), "kind decoder takes no targets"),
        ("gpt2", lambda m: m.score_ids([[5, 6], [5]]), "sequence 1 has no token to score"),
        ("gpt2", lambda m: m.score_ids([[5] * 300]), "score: 300 tokens, the model has 64 pos"),
        ("bart", lambda m: m.score(["w5"]), "needs a target for each source"),
        ("bart", lambda m: m.score(["w5"], "w6"), "give a list"),
        ("bart", lambda m: m.score(["w5", "w6"], ["w7"]), "score: 1 targets for 2 sources"),
        ("bart", lambda m: m.score_ids([[5]], [[96]]), "id 96, the vocabulary has 96"),
        ("bert", lambda m: m.score(["w5"]), "made to classify, it cannot generate"),
    ],
)
def test_what_cannot_be_scored_is_refused(speaking, name, call, message):
    """With the reason."""
    with pytest.raises((CapacityError, InputError), match=message):
        call(speaking(name))
