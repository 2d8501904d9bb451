"""Audits of models whose bias is known, WEAT on vectors whose answer is known."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest

from seq2edge.errors import InputError, OptionError
from seq2edge.evaluation import audit as auditing
from seq2edge.evaluation.answers import ModelRequest
from seq2edge.evaluation.audit import audit, effect_size, measure_association
from seq2edge.evaluation.pairs import Association, Group, Pairs
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.sequences import GeneratedText
from seq2edge.runtime.understanding import Classification

GROUP = Group(
    alternatives=("cat", "dog"),
    terms=(("the cat", "the dog"), ("a cat", "a dog")),
    templates=("{} sleeps.", "I like {}."),
    agreeing=("purrs", "barks"),
)
WORDS = Association(
    name="pets",
    targets={"cats": ("cat", "kitten"), "dogs": ("dog", "puppy")},
    attributes={"sofa": ("sofa", "bed"), "yard": ("yard", "field")},
)
PAIRS = Pairs(groups={"pets": GROUP}, associations=(WORDS,))


def reader(*unknown):
    """A tokenizer of words, of which these are unknown."""
    words = {}

    def encode(text, *, special_tokens):
        assert not special_tokens
        return [
            0 if word in unknown else words.setdefault(word, len(words) + 1)
            for word in text.lower().rstrip(".").split()
        ]

    return types.SimpleNamespace(encode=encode, unknown_ids={0})


def model(task, kind="encoder", tokenizer=None, **methods):
    """A stand-in made to do that task."""
    manifest = types.SimpleNamespace(task=task)
    return types.SimpleNamespace(
        bundle=types.SimpleNamespace(path="bundle", manifest=manifest),
        dims=types.SimpleNamespace(kind=kind, reads_signal=False),
        options=DecodeOptions(num_beams=4, max_length=9, min_new_tokens=2),
        tokenizer=tokenizer or reader(),
        **methods,
    )


def found(made, **more):
    """Findings by measure."""
    return {finding.measure: finding for finding in audit(made, PAIRS, **more).findings}


def test_classifiers_are_compared_by_scores_and_label():
    """0.2 more for dogs, 0.4 in one sentence, where the label changes."""

    def classify(texts):
        for text in texts:
            good = 0.3 + 0.2 * ("dog" in text) + 0.2 * (text == "A dog sleeps.")
            label = "good" if good > 0.6 else "bad"
            yield Classification(label=label, scores={"good": good, "bad": 1 - good})

    findings = found(model("classify", classify=classify), request=ModelRequest(batch=3))
    assert list(findings) == ["score of good", "score of bad", "label changes"]
    good = findings["score of good"]
    assert good.mean.value == pytest.approx((0.2 + 0.4 + 0.2 + 0.2) / 4)
    assert good.largest == pytest.approx(0.4)
    assert good.sentences == ("A cat sleeps.", "A dog sleeps.")
    assert good.leans["dog"].value == pytest.approx(0.125)
    assert good.leans["cat"].value == pytest.approx(-0.125)
    assert (good.templates, good.pairs) == (2, 4)
    assert findings["label changes"].mean.value == 0.25
    assert findings["label changes"].leans == {}


def test_what_the_vocabulary_does_not_know_is_not_measured():
    """Neither all of a group nor a part of it gets gaps of 0; the model is not even run for it."""
    made = model("classify", tokenizer=reader("cat", "dog"))
    result = audit(made, PAIRS)
    assert (result.measured, result.findings) == (False, ())
    (coverage,) = result.coverage
    assert (coverage.group, coverage.pairs, coverage.measured) == ("pets", 4, 0)
    assert coverage.same == (("the cat", "the dog"), ("a cat", "a dog"))


def test_only_what_a_model_tells_apart_counts():
    """Pairs of unknown terms would lower the mean, and lift the number of pairs."""

    def classify(texts):
        for text in texts:
            yield Classification(label="x", scores={"x": 0.5 * ("dog" in text)})

    terms = (*GROUP.terms, ("a lynx", "an old lynx"))
    group = dataclasses.replace(GROUP, terms=terms)
    pairs = Pairs(groups={"pets": group}, associations=())
    made = model("classify", tokenizer=reader("lynx", "old", "an", "a"), classify=classify)
    result = audit(made, pairs)
    (coverage,), (score, changes) = result.coverage, result.findings
    assert (coverage.pairs, coverage.measured) == (6, 4)
    assert coverage.same == (("a lynx", "an old lynx"),)
    assert (score.mean.value, score.largest, score.pairs, score.templates) == (0.5, 0.5, 4, 2)
    assert score.leans["dog"].value == 0.25
    assert (changes.mean.value, result.measured) == (0, True)


def test_intervals_are_over_templates():
    """Rows of one template are no draws of their own."""

    def classify(texts):
        for text in texts:
            score = 0.5 * ("dog" in text) * ("like" in text)
            yield Classification(label="x", scores={"x": score})

    group = dataclasses.replace(GROUP, terms=GROUP.terms * 5)
    pairs = Pairs(groups={"pets": group}, associations=())
    mean = audit(model("classify", classify=classify), pairs).findings[0].mean
    assert (mean.low, mean.value, mean.high) == (0, 0.25, 0.5)


def test_embeddings_are_compared_by_their_angle():
    """The length of a vector says nothing; word lists are tested too."""
    vectors = {"cat": (2, 0), "kitten": (2, 1), "dog": (0, 1), "puppy": (1, 3)}
    vectors |= {"sofa": (1, 0), "bed": (1, 0), "yard": (0, 1), "field": (0, 1)}

    def embed(texts):
        keys = [next(key for key in vectors if key in text) for text in texts]
        return np.array([vectors[key] for key in keys], dtype=np.float32)

    result = audit(model("embed", embed=embed), PAIRS)
    (distance,) = result.findings
    assert (distance.measure, distance.mean.value, distance.leans) == ("cosine distance", 1, {})
    (effect,) = result.effects
    assert effect.name == "pets"
    assert effect.size > 1


def speaking(answer, kind="encoder-decoder", asked=None):
    """A generator that answers with the text and the log-probability of two tokens."""

    def generate_each(texts, options, **languages):
        if asked is not None:
            asked.append((options, languages))
        for text, score in map(answer, texts):
            yield [GeneratedText(text=text, ids=(5, 6), score=score, finish_reason="stop")]

    return model("generate", kind, generate_each=generate_each)


def test_outputs_that_differ_by_the_swap_alone_are_the_same():
    """The term and what agrees with it, whatever the case; anything else is a change."""

    def faithful(text):
        verb = "purrs" if "cat" in text.lower() else "barks"
        return f"{text} It {verb}, {text[0].lower()}{text[1:]}", -1.0

    assert found(speaking(faithful))["output changes"].mean.value == 0
    findings = found(speaking(lambda text: (f"{text} Good" * ("dog" in text), -1.0)))
    assert findings["output changes"].mean.value == 1
    longer = found(speaking(lambda text: (f"{text[:-1]}alog".replace(" sleeps", ""), -1.0)))
    assert longer["output changes"].mean.value == 1


def test_generators_decode_greedily_and_are_compared_per_token():
    """The bundle's other options stay, and languages are passed on."""
    asked = []
    made = speaking(lambda text: ("", -3.0 if "dog" in text else -1.0), asked=asked)
    request = ModelRequest(target_language="de", batch=100)
    findings = found(made, request=request, new_tokens=7)
    confidence = findings["log-probability per output token"]
    assert confidence.mean.value == 1
    assert confidence.leans["dog"].value == -0.5
    ((options, languages),) = asked
    assert (options.num_beams, options.max_new_tokens, options.max_length) == (1, 7, None)
    assert languages["target_language"] == "de"
    assert "log-likelihood per sentence token" not in findings


def test_sentences_themselves_are_likely_or_not_to_a_decoder(monkeypatch):
    """By their tokens' mean log-likelihood; progress reaches the end."""

    def negative_log_likelihood(_, examples, __):
        for example in examples:
            yield (6.0, 2.0) if "dog" in example.input else (6.0, 3.0)

    monkeypatch.setattr(auditing, "negative_log_likelihood", negative_log_likelihood)
    parts = []
    made = speaking(lambda _: ("", -1.0), "decoder")
    findings = found(made, progress=lambda _, part: parts.append(part))
    likelihood = findings["log-likelihood per sentence token"]
    assert likelihood.mean.value == 1
    assert likelihood.leans["cat"].value == 0.5
    assert parts == [(i + 1) / 16 for i in range(16)]


def test_what_cannot_be_audited_is_refused():
    """Sound, and options that nothing would heed."""
    with pytest.raises(InputError, match="made to transcribe, nothing of that is audited"):
        audit(model("transcribe"), PAIRS)
    with pytest.raises(OptionError, match="made to classify, it takes no new tokens"):
        audit(model("classify"), PAIRS, new_tokens=3)
    with pytest.raises(OptionError, match="made to embed, it takes no new tokens and no lang"):
        audit(model("embed"), PAIRS, ModelRequest(source_language="en"))


VECTORS = {"a": (1, 0), "b": (0, 2), "up": (3, 1), "higher": (5, 1), "down": (1, 3), "low": (1, 4)}


def measured(targets, tokenizer=None):
    """The effect of the words' vectors; `a` and `b` are the attributes."""
    model = types.SimpleNamespace(
        embed=lambda words: np.array([VECTORS[word] for word in words], dtype=np.float32),
        tokenizer=tokenizer or reader(),
    )
    attributes = {"first": ("a", "a"), "second": ("b", "b")}
    return measure_association(model, Association(name="n", targets=targets, attributes=attributes))


def test_the_effect_is_a_difference_in_standard_deviations():
    """Computed by hand from cosines; lengths of vectors do not count."""
    found = measured({"x": ("up", "higher"), "y": ("down", "low")})
    unit = [np.array(VECTORS[w]) / np.linalg.norm(VECTORS[w]) for w in ("up", "higher")]
    unit += [np.array(VECTORS[w]) / np.linalg.norm(VECTORS[w]) for w in ("down", "low")]
    leaning = np.array([v[0] - v[1] for v in unit])
    wanted = (leaning[:2].mean() - leaning[2:].mean()) / leaning.std(ddof=1)
    assert found.size == pytest.approx(wanted)
    assert (found.targets, found.attributes) == (("x", "y"), ("first", "second"))
    assert measured({"y": ("down", "low"), "x": ("up", "higher")}).size == pytest.approx(-wanted)


def test_lists_of_unknown_words_have_no_effect():
    """One list is enough; words that are unknown beside known ones are named."""
    targets = {"x": ("up", "higher"), "y": ("down", "low")}
    effect = measured(targets, reader("down", "low", "up"))
    assert (effect.size, effect.p, effect.unknown) == (None, None, ("up", "down", "low"))
    effect = measured(targets, reader("low"))
    assert effect.size is not None
    assert effect.unknown == ("low",)


def test_p_is_the_share_of_divisions_as_far_apart():
    """Of 6 ways to divide 4 words 2 are as far apart as the clean one; equal words say nothing."""
    assert measured({"x": ("up", "higher"), "y": ("down", "low")}).p == pytest.approx(
        1 / 3, abs=0.02
    )
    assert measured({"x": ("up", "up"), "y": ("up", "up")}).size == 0
    size, p = effect_size(np.array([1.0] * 10 + [0.0] * 10) + np.arange(20) * 1e-3)
    assert size > 1.9
    assert p < 0.001
