"""Encoder-only models on texts and pairs: what transformers answers, best first, in any batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from eager_models import eager_model, opened, reference_logits
from reranking import INSTRUCTION, SUFFIX, card_ids, card_score, causal_reranker
from small_tokenizers import corpus

from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.errors import InputError
from seq2edge.runtime.model import Model

TEXTS = corpus("latin")[:5]
CLOSE = {"abs": 1e-5}


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    """A classifier with one label."""
    return eager_model(tmp_path_factory.mktemp("reranker"), "bert", "bert", num_labels=1)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_pairs_are_classified_as_in_transformers(tmp_path, kind):
    """With types of tokens, with one type for all, and without any."""
    reference, tokenizer, model = eager_model(tmp_path, kind, kind)
    pairs = [(TEXTS[0], TEXTS[1]), (TEXTS[1][:9], TEXTS[2]), TEXTS[3]]
    for text, found in zip(pairs, model.classify(pairs), strict=True):
        parts = (text,) if isinstance(text, str) else text
        wanted = reference_logits(reference, tokenizer, *parts).logits.softmax(-1)[0]
        assert list(found.scores.values()) == pytest.approx(wanted.tolist(), **CLOSE)


def test_texts_are_ranked_by_the_sigmoid_of_their_logit(reranker):
    """Best first, with the place of each, whatever the batch is."""
    reference, tokenizer, model = reranker
    wanted = [
        reference_logits(reference, tokenizer, TEXTS[4], text).logits.sigmoid().item()
        for text in TEXTS
    ]
    for batch in (1, 3, 16):
        found = model.rerank(TEXTS[4], TEXTS, batch=batch)
        assert [each.index for each in found] == list(np.argsort(wanted)[::-1])
        assert [each.score for each in found] == pytest.approx(sorted(wanted)[::-1], **CLOSE)
        assert [each.text for each in found] == [TEXTS[each.index] for each in found]
    assert model.rerank("hello", []) == []


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A language model as a reranker: the model, its tokenizer, and a way to open it."""
    folder = tmp_path_factory.mktemp("asked")
    reference, tokenizer = causal_reranker(folder / "checkpoint")
    loaded = load_checkpoint(folder / "checkpoint", task="rerank")

    def open_it(place, *, limit=None, **changes):
        record = dataclasses.replace(loaded.reranker.tokenizer.record, text_limit=limit)
        converted = dataclasses.replace(loaded.reranker.tokenizer, record=record)
        return opened(place, loaded, converted, **changes)

    return reference, tokenizer, open_it, loaded.reranker.record.tokens


def test_a_language_model_ranks_as_its_card_says(tmp_path, asked):
    """The probability of yes behind the prompt, with the card's instruction or another."""
    reference, tokenizer, open_it, tokens = asked
    model = open_it(tmp_path / "bundle")
    for instruction in (INSTRUCTION, "Find contradictions.", ""):
        chosen = None if instruction == INSTRUCTION else instruction
        wanted = [
            card_score(reference, card_ids(tokenizer, TEXTS[4], text, instruction), *tokens)
            for text in TEXTS
        ]
        for batch in (1, 3):
            found = model.rerank(TEXTS[4], TEXTS, instruction=chosen, batch=batch)
            assert [each.index for each in found] == list(np.argsort(wanted)[::-1])
            assert [each.score for each in found] == pytest.approx(sorted(wanted)[::-1], **CLOSE)
    (pair,) = model.classify([(TEXTS[4], TEXTS[0])])
    score = model.rerank(TEXTS[4], TEXTS[:1])[0].score
    assert 1 / (1 + np.exp(-pair.scores[pair.label])) == pytest.approx(score, **CLOSE)


def test_a_prompt_that_is_too_long_loses_the_end_of_its_text(tmp_path, asked):
    """With `cut`, the query and what stands around both stay; without it is refused."""
    reference, tokenizer, open_it, tokens = asked
    text = " ".join(TEXTS)
    whole = tokenizer.encode(text, add_special_tokens=False)
    around = len(card_ids(tokenizer, TEXTS[4], "")) + 9
    model = open_it(tmp_path / "cut", limit=around + 9, cut=True)
    ids = model.read_text((TEXTS[4], text)).ids
    assert len(ids) == around + 9
    assert model.tokenizer.shortened == 1
    prompt = tokenizer.decode(ids)
    kept = prompt.split("<Document>: ")[1].removesuffix(SUFFIX)
    assert text.startswith(kept)
    assert 10 < len(kept) < len(text)
    assert len(whole) > 40
    score = card_score(reference, ids, *tokens)
    assert model.rerank(TEXTS[4], [text])[0].score == pytest.approx(score, **CLOSE)
    with pytest.raises(InputError, match=r"\d+ tokens, 20 are allowed.*shorten the query"):
        open_it(tmp_path / "short", limit=20, cut=True).rerank(TEXTS[4], [text])
    with pytest.raises(InputError, match=r"the checkpoint's tokenizer allows 20"):
        open_it(tmp_path / "refused", limit=20).rerank(TEXTS[4], [text])


def test_an_instruction_and_a_single_text_need_the_right_reranker(tmp_path, reranker, asked):
    """One that reads pairs takes no instruction; one that is asked reads no text alone."""
    _, _, model = reranker
    with pytest.raises(InputError, match=r"instruction: .* takes none, it reads pairs alone"):
        model.rerank("hello", TEXTS, instruction="Find contradictions.")
    with pytest.raises(InputError, match=r"reads a query and a text; give pairs, or rerank"):
        asked[2](tmp_path / "bundle").classify(["hello"])


def test_what_is_no_pair_is_refused(reranker):
    """Three texts, or something that is no text."""
    _, _, model = reranker
    with pytest.raises(InputError, match=r"\('a', 'b', 'c'\) is neither a text nor a pair"):
        model.classify([("a", "b", "c")])
    with pytest.raises(InputError, match=r"text: \('a', 5\) is not Unicode text"):
        model.classify([("a", 5)])


@pytest.mark.parametrize(
    "settings",
    [
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
    ],
)
def test_a_cross_encoder_may_say_that_its_logit_is_the_score(tmp_path, settings):
    """As sentence-transformers wrote it, of old and now."""
    reference, tokenizer, model = eager_model(tmp_path, "bert", "bert", num_labels=1, **settings)
    wanted = reference_logits(reference, tokenizer, *TEXTS[:2]).logits.item()
    assert model.rerank(TEXTS[0], [TEXTS[1]])[0].score == pytest.approx(wanted, **CLOSE)


def test_a_model_with_several_labels_ranks_nothing(tmp_path):
    """It says what it can do instead."""
    _, _, model = eager_model(tmp_path, "bert", "bert")
    with pytest.raises(InputError, match=r"tells 3 labels apart.*classify pairs with it"):
        model.rerank("hello", TEXTS)


def test_long_pairs_are_refused_or_cut(tmp_path, reranker):
    """With `cut` the longer text loses first, and it is counted."""
    _, _, model = reranker
    long = " ".join(TEXTS * 4)
    with pytest.raises(
        InputError, match=r"text \('hello world', .*: \d+ tokens, the model takes 66; shorten"
    ):
        model.rerank("hello world", [long])
    reference, tokenizer, model = eager_model(tmp_path, "bert", "bert", num_labels=1, cut=True)
    found = model.rerank("hello world", [long])[0].score
    inputs = tokenizer("hello world", long, truncation=True, max_length=66, return_tensors="pt")
    assert found == pytest.approx(reference(**inputs).logits.sigmoid().item(), **CLOSE)
    assert model.tokenizer.shortened == 1


def test_a_bundle_whose_encoder_reads_no_types_refuses_pairs(reranker):
    """One that an older version exported; texts go on."""
    _, _, model = reranker
    manifest = model.bundle.manifest
    old = dataclasses.replace(manifest.graphs[0], inputs=manifest.graphs[0].inputs[:2])
    bundle = dataclasses.replace(
        model.bundle, manifest=dataclasses.replace(manifest, graphs=(old,))
    )
    older = Model(bundle, model.backend)
    assert older.classify(TEXTS[:1]) == model.classify(TEXTS[:1])
    with pytest.raises(InputError, match="cannot tell the texts of a pair apart"):
        older.rerank("hello", TEXTS)


def test_a_tokenizer_may_allow_less_than_there_are_positions(tmp_path):
    """Then longer texts are refused, or cut to what it allows, and counted."""
    long = " ".join(TEXTS[:2])
    _, tokenizer, model = eager_model(tmp_path / "a", "bert", "bert", text_limit=12)
    assert model.text_positions == 12
    with pytest.raises(InputError, match=r"\d\d tokens, the checkpoint's tokenizer allows 12; sh"):
        model.classify([long])
    reference, tokenizer, model = eager_model(
        tmp_path / "b", "bert", "bert", text_limit=12, cut=True
    )
    found = model.classify(["hello", long])[1]
    inputs = tokenizer(long, truncation=True, max_length=12, return_tensors="pt")
    wanted = reference(**inputs).logits.softmax(-1)[0].tolist()
    assert list(found.scores.values()) == pytest.approx(wanted, **CLOSE)
    assert model.tokenizer.shortened == 1
