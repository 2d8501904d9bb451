"""Task metrics: known values, intervals that behave, and what does not go together."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from speaking import speaking_bundle

import seq2edge
from seq2edge.errors import InputError, OptionError
from seq2edge.evaluation import metrics
from seq2edge.evaluation.examples import Example
from seq2edge.evaluation.metrics import METRICS, Scores, choose_metric, score


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Small models with a tokenizer of words, by name."""
    made = {}

    def get(name):
        if name not in made:
            folder = speaking_bundle(name, tmp_path_factory.mktemp(name))
            made[name] = seq2edge.load(folder, device="cpu", threads=1)
        return made[name]

    return get


def answering(monkeypatch, answers):
    """Let every model answer with these texts."""
    monkeypatch.setattr(
        metrics,
        "_pairs",
        lambda _, examples, __: [
            (answer, e.reference) for answer, e in zip(answers, examples, strict=True)
        ],
    )


def references(*texts):
    """Examples of which only the references matter."""
    return [Example(input="w5", reference=text) for text in texts]


def test_word_and_character_errors_are_edits_over_the_reference(monkeypatch):
    """Case and punctuation do not count; 1 of 2 words and 0 of 3 make 20 %."""
    answering(monkeypatch, ["Hello word", "a, B c."])
    examples = references("hello world!", "A b C")
    assert score(METRICS["wer"], None, examples).estimate().value == pytest.approx(20)
    assert score(METRICS["cer"], None, examples).estimate().value == pytest.approx(100 / 16)


def test_translation_metrics_are_sacrebleus_own(monkeypatch):
    """On the whole set, not a mean of sentences."""
    from sacrebleu.metrics import BLEU, CHRF

    answers = ["the cat sat on the mat", "he reads a big book today"]
    examples = references("the cat sat on a mat", "she reads a big book now")
    answering(monkeypatch, answers)
    wanted = [[e.reference for e in examples]]
    for name, scorer in (("bleu", BLEU()), ("chrf", CHRF())):
        found = score(METRICS[name], None, examples).estimate().value
        assert found == pytest.approx(scorer.corpus_score(answers, wanted).score)


def test_perplexity_is_that_of_the_models_logits(models):
    """Texts of unequal lengths, more than a batch: every token after the first counts once."""
    model = models("gpt2")
    texts = [" ".join(f"w{5 + (i * j) % 40}" for j in range(2 + i)) for i in range(10)]
    total, count = 0.0, 0
    for text in texts:
        ids = model.tokenizer.encode(text)
        for end in range(1, len(ids)):
            cache = model.backend.start(None, 1, None)
            logits = model.backend.step(np.array([ids[:end]]), np.array([end]), cache)[0]
            exponent = np.exp(logits.astype(np.float64) - logits.max())
            total -= math.log(exponent[ids[end]] / exponent.sum())
            count += 1
    found = score(METRICS["perplexity"], model, [Example(input=text) for text in texts])
    assert found.sums[:, 1].sum() == count
    assert found.estimate().value == pytest.approx(math.exp(total / count), rel=1e-4)


def test_accuracy_counts_the_labels(models):
    """Against what `classify` says."""
    model = models("bert")
    texts = [f"w{i} w{i + 7}" for i in range(5, 25)]
    labels = [found.label for found in model.classify(texts)]
    wrong = next(label for label in model.bundle.manifest.labels if label != labels[0])
    examples = [Example(input=t, reference=x) for t, x in zip(texts, labels, strict=True)]
    examples[0] = dataclasses.replace(examples[0], reference=wrong)
    assert score(METRICS["accuracy"], model, examples).estimate().value == pytest.approx(95)
    with pytest.raises(InputError, match="the label 'x' is unknown, known: LABEL_0"):
        score(METRICS["accuracy"], model, [Example(input="w5", reference="x")])


def test_generators_answers_are_compared(models):
    """The model's own text is its perfect reference."""
    model = models("bart")
    texts = ["w5 w6", "w7 w8 w9"]
    own = [found[0].text for found in model.generate(texts)]
    examples = [Example(input=t, reference=x) for t, x in zip(texts, own, strict=True)]
    assert score(METRICS["wer"], model, examples).estimate().value == 0
    assert score(METRICS["chrf"], model, examples).estimate().value == pytest.approx(100)


def shares(count, seed):
    """Scores of an accuracy."""
    right = np.random.default_rng(seed).random(count) < 0.7
    return Scores(metric=METRICS["accuracy"], sums=np.stack([right, np.ones(count)], axis=1))


def test_intervals_are_those_of_a_proportion():
    """Close to the normal approximation, and narrower with more examples."""
    for count in (100, 1600):
        found = shares(count, seed=1).estimate()
        share = found.value / 100
        wanted = 2 * 1.96 * 100 * math.sqrt(share * (1 - share) / count)
        assert found.low < found.value < found.high
        assert found.high - found.low == pytest.approx(wanted, rel=0.15)


def test_differences_are_drawn_on_the_same_examples():
    """A model differs from itself by nothing; one that loses a single answer by very little."""
    before = shares(400, seed=1)
    same = before.change_from(before)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    sums = before.sums.copy()
    sums[np.flatnonzero(sums[:, 0])[0], 0] = 0
    lost = dataclasses.replace(before, sums=sums).change_from(before)
    assert lost.value == pytest.approx(-0.25)
    assert -1.1 < lost.low <= lost.value <= lost.high <= 0


@pytest.mark.parametrize(
    ("model", "metric", "has", "wanted"),
    [
        ("bart", None, True, "chrf"),
        ("bart", None, False, None),
        ("gpt2", None, False, "perplexity"),
        ("bert", None, True, "accuracy"),
        ("bert-embedding", None, True, None),
        ("gpt2", "bleu", True, "bleu"),
    ],
)
def test_the_metric_follows_from_the_task(models, model, metric, has, wanted):
    """Unless one is asked for; without references there may be none."""
    examples = [Example(input="w5", reference="w6" if has else None)]
    found = choose_metric(models(model), examples, metric)
    assert (found and found.name) == wanted


@pytest.mark.parametrize(
    ("model", "metric", "error", "message"),
    [
        ("bart", "rouge", OptionError, "metric: 'rouge' is unknown, known: chrf, bleu, wer"),
        ("bart", "accuracy", OptionError, r"accuracy is not for models made to generate \(enc"),
        ("bart", "perplexity", OptionError, "perplexity is not for models made to generate"),
        ("bert", "wer", OptionError, "wer is not for models made to classify"),
        ("gpt2", "chrf", InputError, "chrf compares with references, the examples have none"),
    ],
)
def test_what_does_not_go_together_is_refused(models, model, metric, error, message):
    """By name, before anything is run."""
    with pytest.raises(error, match=message):
        choose_metric(models(model), [Example(input="w5")], metric)


def test_texts_too_short_are_refused(models):
    """One token has nothing that follows it; a reference of signs alone has no words."""
    with pytest.raises(InputError, match="two tokens or more"):
        score(METRICS["perplexity"], models("gpt2"), [Example(input="")])
    with pytest.raises(InputError, match="reference '!' holds no words"):
        score(METRICS["wer"], models("bart"), [Example(input="w5", reference="!")])
