"""Entities are those of transformers' own pipeline, word for word."""

from __future__ import annotations

import warnings

import pytest
from eager_models import eager_model
from small_tokenizers import corpus
from transformers import TokenClassificationPipeline

from seq2edge.errors import InputError, OptionError
from seq2edge.runtime.tagging import AGGREGATIONS

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC")
TEXTS = [*corpus("latin")[:4], "  hello,  world!", "naïve Größe\tunseen☃words", "x"]


@pytest.fixture(scope="module", params=["bert", "roberta", "distilbert"])
def tagger(request, tmp_path_factory):
    """A random tagger of each kind of tokenizer: its pipeline and ours."""
    names = {"id2label": dict(enumerate(LABELS)), "num_labels": len(LABELS)}
    folder = tmp_path_factory.mktemp("tagger")
    reference, tokenizer, model = eager_model(
        folder, f"{request.param}-tokens", request.param, **names
    )
    tokenizer.model_max_length = 40
    return TokenClassificationPipeline(model=reference, tokenizer=tokenizer, device="cpu"), model


def plain(entities):
    """Ours as the pipeline writes them."""
    return [(each.label, each.word, each.start, each.end) for each in entities]


def asked(pipeline, text, **options):
    """The pipeline's, without its remarks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pipeline(text, **options)
    names = [each.get("entity_group", each.get("entity")) for each in found]
    entities = [
        (name, each["word"], each["start"], each["end"])
        for name, each in zip(names, found, strict=True)
    ]
    return entities, [float(each["score"]) for each in found]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_entities_are_those_of_the_pipeline(tagger, aggregation):
    """Of every way to aggregate, in a batch of unequal lengths; some begin, some go on."""
    pipeline, model = tagger
    found = model.tag(TEXTS, aggregation=aggregation, batch=3)
    for text, entities in zip(TEXTS, found, strict=True):
        wanted, scores = asked(pipeline, text, aggregation_strategy=aggregation)
        assert plain(entities) == wanted
        assert [each.score for each in entities] == pytest.approx(scores, abs=1e-5)
    everything = [each for entities in found for each in entities]
    assert len({each.label for each in everything}) > 2
    gone = everything[0].label
    kept = model.tag(TEXTS, aggregation=aggregation, ignore=(gone,))
    labels = {each.label for entities in kept for each in entities}
    assert labels - {"O"} == {each.label for each in everything} - {gone}


def test_long_texts_are_read_in_parts(tagger):
    """Of what overlaps the longest entity stays; without an overlap the text is refused."""
    pipeline, model = tagger
    long = " ".join(corpus("latin")[:40])
    with pytest.raises(InputError, match=r"text '.*: \d+ tokens, the model takes"):
        model.tag([long])
    pipeline.tokenizer.model_max_length = model.text_positions
    wanted, scores = asked(pipeline, long, aggregation_strategy="simple", stride=9)
    found = model.tag([TEXTS[0], long], overlap=9)
    assert plain(found[0]) == plain(model.tag([TEXTS[0]])[0])
    assert plain(found[1]) == wanted
    assert [each.score for each in found[1]] == pytest.approx(scores, abs=1e-5)


def test_what_cannot_be_aggregated_is_refused(tagger):
    """By name; and what the model was not made for."""
    _, model = tagger
    with pytest.raises(OptionError, match=r"aggregation: 'mean' is unknown, known: none, simple"):
        model.tag(TEXTS, aggregation="mean")
    with pytest.raises(OptionError, match="overlap: parts of a text are put together"):
        model.tag(TEXTS, aggregation="none", overlap=3)
    with pytest.raises(InputError, match="made to tag, it cannot classify"):
        model.classify(TEXTS)
    assert model.tag([]) == []
