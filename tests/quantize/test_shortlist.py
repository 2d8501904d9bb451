"""A bundle that generates a list's tokens: as the whole one does with all others forbidden."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny_models
from bundle_folders import tree

import seq2edge
from seq2edge.bundle import Bundle
from seq2edge.errors import BundleError, ExportError, InputError, OptionError
from seq2edge.evaluation.examples import Example
from seq2edge.quantize import shortlist
from seq2edge.quantize.pipeline import quantize_bundle
from seq2edge.quantize.shortlist import learn_ids, shorten_vocabulary
from seq2edge.runtime.backend import Candidates
from seq2edge.runtime.backends.verification import verify_graphs
from seq2edge.runtime.model import Model

IDS = (0, 1, 2, *range(5, 90, 2))  # more than a step gives apart
FEW = (0, 1, 2, 7, 11, 30)  # fewer
OTHERS = {ids: tuple(set(range(tiny_models.VOCAB)) - set(ids)) for ids in (IDS, FEW)}
PROMPTS = [[5, 6, 7, 8], [9]]


@pytest.fixture(scope="module")
def shortened(speaking, tmp_path_factory):
    """`shortened(name, ids)`: the report on that tiny model's bundle with that list."""
    reports = {}

    def get(name, ids=IDS):
        if (name, ids) not in reports:
            folder = tmp_path_factory.mktemp("short") / name
            reports[name, ids] = shorten_vocabulary(speaking(name), folder, ids=ids, threads=1)
        return reports[name, ids]

    return get


def answers(model, **options):
    """Ids of all results, and the scores."""
    chosen = model.options.replace(max_new_tokens=8, max_length=None, **options)
    results = [r for best in model.generate_ids(PROMPTS, chosen) for r in best]
    return [r.ids for r in results], [r.score for r in results]


def load(bundle, graphs):
    """The model on the CPU, with those graphs."""
    return seq2edge.load(bundle.path, device="cpu", threads=1, graphs=graphs)


@pytest.mark.parametrize("ids", [IDS, FEW], ids=["many", "few"])
@pytest.mark.parametrize("graphs", ["canonical", "onnxruntime"])
@pytest.mark.parametrize("name", ["bart", "t5", "llama"])
def test_tokens_are_those_of_the_whole_bundle_with_all_others_forbidden(
    shortened, name, graphs, ids
):
    """Greedily and drawn. Scores are of the list's tokens alone, so they are higher."""
    report = shortened(name, ids)
    whole, short = load(report.source, graphs), load(report.bundle, graphs)
    for options in ({}, {"do_sample": True, "seed": 3, "no_repeat_ngram_size": 2}):
        expected = answers(whole, **options, suppress_tokens=OTHERS[ids])
        found = answers(short, **options)
        assert found[0] == expected[0]
        assert all(a > b for a, b in zip(found[1], expected[1], strict=True))


@pytest.mark.parametrize("ids", [IDS, FEW], ids=["many", "few"])
@pytest.mark.parametrize("graphs", ["canonical", "onnxruntime"])
@pytest.mark.parametrize("name", ["bart", "t5", "llama"])
def test_beams_are_those_of_a_model_that_knows_no_other_tokens(shortened, name, graphs, ids):
    """Their scores add up what is renormalised, so they may part from suppressed tokens'."""
    report = shortened(name, ids)
    whole = load(report.source, graphs)
    listed = Model(report.source, shortlist._Listed(whole.backend, np.array(ids)))
    options = {"num_beams": 3, "num_return_sequences": 3}
    expected, found = answers(listed, **options), answers(load(report.bundle, graphs), **options)
    assert found[0] == expected[0]
    np.testing.assert_allclose(found[1], expected[1], atol=1e-4)


@pytest.mark.parametrize("ids", [IDS, FEW], ids=["many", "few"])
def test_a_step_gives_the_largest_of_the_list(shortened, ids):
    """As many as there are; the graphs prove it, and what is recorded is the short bundle's own."""
    report = shortened("bart", ids)
    backend = load(report.bundle, "onnxruntime").backend
    cache = backend.start(backend.encode(np.array([[5, 6, 2]]), np.array([3])), 1, None)
    answer = backend.step(np.array([[2]]), np.array([1]), cache)
    assert isinstance(answer, Candidates)
    assert answer.ids.shape[1] == min(32, len(ids))
    assert set(answer.ids[0].tolist()) <= set(ids)
    assert answer.logits().shape == (1, tiny_models.VOCAB)
    outcomes = dict(verify_graphs(report.bundle, device="cpu"))
    assert all(outcomes[name].passed for name in ("canonical", "onnxruntime"))


def test_the_bundle_says_what_was_done(shortened):
    """The list as a file and a record; the source is named by its hash and was not touched."""
    report = shortened("bart")
    bundle = Bundle.open(report.bundle.path, hashes=True)
    record = bundle.manifest.shortlist
    assert (record.origin, record.size, record.texts, record.most) == ("ids", len(IDS), 0, None)
    assert bundle.file(record.file).read_text().split() == [str(token) for token in IDS]
    assert report.ids == IDS
    assert set(report.difference) == {"canonical", "onnxruntime"}
    assert bundle.manifest.parity.max_absolute >= report.source.manifest.parity.max_absolute
    Bundle.open(report.source.path, hashes=True)


@pytest.mark.parametrize("recipe", ["int8-weight", "int8-dynamic"])
@pytest.mark.parametrize("ids", [IDS, FEW], ids=["many", "few"])
def test_a_short_bundle_is_quantized(shortened, tmp_path, recipe, ids):
    """Its head as the table that it is; the list stays, also for what is generated."""
    report = quantize_bundle(shortened("bart", ids).bundle.path, tmp_path / "small", recipe)
    assert report.kept == ()
    formats = report.bundle.manifest.quantization.weights
    heads = [text for name, text in formats.items() if name.endswith(".shortlist")]
    assert heads == ["int8, blocks of 32"]
    assert report.bundle.manifest.shortlist == report.source.manifest.shortlist
    assert all(outcome.passed for _, outcome in verify_graphs(report.bundle, device="cpu"))
    found = answers(load(report.bundle, "onnxruntime"), num_beams=2)
    assert {token for row in found[0] for token in row} <= set(ids)


def test_a_short_bundle_is_quantized_for_tensorrt(shortened, tmp_path):
    """In half precision minus infinity stays what it is; its twin answers with listed tokens."""
    report = quantize_bundle(
        shortened("bart").bundle.path,
        tmp_path / "small",
        "bf16",
        emulation=tmp_path / "twin",
    )
    assert report.parity.tokens_equal >= 0.8 * report.parity.tokens_compared
    found = answers(load(report.emulated, "canonical"))
    assert {token for row in found[0] for token in row} <= set(IDS)


def test_options_that_a_list_cannot_honour_are_refused(shortened):
    """Whatever forces, favours or ends with another token; forbidding one is no effort."""
    model = load(shortened("bart").bundle, None)
    for options in (
        {"eos_token_id": (2, 4)},
        {"forced_bos_token_id": 4},
        {"forced_eos_token_id": 4},
        {"sequence_bias": (((5, 4), 1.0),)},
    ):
        with pytest.raises(OptionError, match=f"{next(iter(options))}: token 4 is not on"):
            answers(model, **options)
    assert answers(model, suppress_tokens=(4,), bad_words_ids=((4,),))[0] == answers(model)[0]
    with pytest.raises(InputError, match="token 4 of sequence 0 is not on the shortlist"):
        model.score_ids([[5, 6]], [[5, 4]])
    assert model.score_ids([[5, 6]], [[5, 7]])[0].tokens == 2


def test_a_list_is_learnt_from_references(speaking):
    """Their tokens or the most frequent, lower ids first; special ones and characters stay."""
    bundle = Bundle.open(speaking("bart"))
    examples = [
        Example(input="w50", references=("w9 w8 w8", "w7")),
        Example(input="w51", references=("w9 w8 w10",)),
    ]
    staying = {0, 1, 2}
    assert learn_ids(bundle, examples) == {7, 8, 9, 10} | staying
    assert learn_ids(bundle, examples, 3) == {7, 8, 9} | staying
    whole = Bundle.open(speaking("llama"))
    assert learn_ids(whole, examples[1:]) == {51, 8, 9, 10} | staying
    with pytest.raises(InputError, match="example 1: has no reference"):
        learn_ids(bundle, [Example(input="w5")])


def test_what_spells_any_text_stays(speaking, tmp_path, monkeypatch):
    """Single characters and bytes; other pieces do not."""
    bundle = Bundle.open(speaking("bart"))
    pieces = {"a": 20, "ab": 21, "<0x0A>": 22, "<0x0A": 23, "\u2581": 24, "far": 500}
    monkeypatch.setattr(shortlist.Tokenizer, "ids_of_tokens", lambda _: pieces)
    examples = [Example(input="", references=("w9",))]
    assert learn_ids(bundle, examples) == {0, 1, 2, 9, 20, 22, 24}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, OptionError, "give ids, or examples"),
        ({"ids": IDS, "examples": [Example(input="a")]}, OptionError, "give ids, or examples"),
        ({"ids": IDS, "most": 3}, OptionError, "most: 3"),
        ({"examples": [Example(input="a", references=("b",))], "most": 0}, OptionError, "most: 0"),
        ({"ids": (0, 2, 96)}, InputError, "id 96, the vocabulary has 96"),
        ({"ids": (2, 2)}, InputError, "one token alone"),
        ({"ids": (0, 1, 5)}, OptionError, "eos_token_id: token 2 is not on the shortlist"),
    ],
)
def test_a_list_that_means_nothing_is_refused(speaking, tmp_path, arguments, error, message):
    """Before anything is written; so are defaults that name a token off the list."""
    with pytest.raises(error, match=message):
        shorten_vocabulary(speaking("bart"), tmp_path / "short", **arguments)
    assert tree(tmp_path) == {}


def test_other_bundles_are_refused(shortened, exported, tmp_path):
    """Quantized and short ones, those that generate nothing, and texts without a tokenizer."""
    short = shortened("bart").bundle.path
    quantize_bundle(short, tmp_path / "small", "int8-weight")
    for path, message in (
        (tmp_path / "small", "shorten the float bundle, then quantize"),
        (short, "has a shortlist already"),
        (exported("bert")[1] / "bundle", "made to classify, it generates no tokens"),
    ):
        with pytest.raises(BundleError, match=message):
            shorten_vocabulary(path, tmp_path / "other", ids=IDS)
    source = shortened("bart").source
    silent = dataclasses.replace(source.manifest, tokenizer=None)
    with pytest.raises(InputError, match="has no tokenizer, give the ids"):
        learn_ids(dataclasses.replace(source, manifest=silent), [Example(input="a")])


def test_a_logit_that_differs_stops_it(speaking, tmp_path, monkeypatch):
    """Nothing is written then."""
    taken = shortlist.write_graphs

    def wrong(*arguments, ids, **options):
        return taken(*arguments, ids=np.where(ids == 7, 8, ids), **options)

    monkeypatch.setattr(shortlist, "write_graphs", wrong)
    with pytest.raises(ExportError, match="logits of the canonical graphs differ by"):
        shorten_vocabulary(speaking("bart"), tmp_path / "short", ids=IDS)
    assert tree(tmp_path) == {}
