"""Metrics of models: known values, intervals that behave, what does not go together."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from eager_models import eager_model

import seq2edge
from seq2edge.errors import InputError, OptionError
from seq2edge.evaluation.examples import Example
from seq2edge.evaluation.metrics import (
    METRICS,
    Scores,
    choose_metric,
    estimate_mean,
    score,
    score_answers,
    usual_metrics,
)
from seq2edge.runtime.backend import all_logits
from seq2edge.runtime.understanding import Classification


@pytest.fixture(scope="module")
def models(speaking):
    """Small models with a tokenizer of words, by name."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = seq2edge.load(speaking(name), device="cpu", threads=1)
        return made[name]

    return get


def test_perplexity_is_that_of_the_models_logits(models):
    """Texts of unequal lengths, more than a batch: every token after the first counts once."""
    model = models("gpt2")
    texts = [" ".join(f"w{5 + (i * j) % 40}" for j in range(2 + i)) for i in range(10)]
    total, count = 0.0, 0
    for text in texts:
        ids = model.tokenizer.encode(text)
        for end in range(1, len(ids)):
            cache = model.backend.start(None, 1, None)
            logits = all_logits(model.backend.step(np.array([ids[:end]]), np.array([end]), cache))[
                0
            ]
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
    examples = [Example(input=t, references=(x,)) for t, x in zip(texts, labels, strict=True)]
    examples[0] = dataclasses.replace(examples[0], references=(wrong,))
    assert score(METRICS["accuracy"], model, examples).estimate().value == pytest.approx(95)
    with pytest.raises(InputError, match="the label 'x' is unknown, known: LABEL_0"):
        score(METRICS["accuracy"], model, [Example(input="w5", references=("x",))])


def test_generators_answers_are_compared(models):
    """The model's own text is its perfect reference."""
    model = models("bart")
    texts = ["w5 w6", "w7 w8 w9"]
    own = [found[0].text for found in model.generate(texts)]
    examples = [Example(input=t, references=(x,)) for t, x in zip(texts, own, strict=True)]
    assert score(METRICS["wer"], model, examples).estimate().value == 0
    assert score(METRICS["chrf"], model, examples).estimate().value == pytest.approx(100)


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
    examples = [Example(input="w5", references=("w6",) if has else ())]
    found = choose_metric(models(model), examples, metric)
    assert (found and found.name) == wanted


@pytest.mark.parametrize(
    ("model", "metric", "error", "message"),
    [
        ("bart", "rouge", OptionError, "metric: 'rouge' is unknown, known: chrf, bleu, wer"),
        ("bart", "f1", OptionError, "f1 is not for models made to generate"),
        ("bart", "accuracy", OptionError, r"accuracy is not for models made to generate \(enc"),
        ("bart", "perplexity", OptionError, "perplexity is not for models made to generate"),
        ("bert", "pearson", OptionError, "pearson is not for models with several labels, take"),
        ("bert", "wer", OptionError, "wer is not for models made to classify"),
        ("gpt2", "chrf", InputError, "chrf compares with references, the examples have none"),
    ],
)
def test_what_does_not_go_together_is_refused(models, model, metric, error, message):
    """By name, before anything is run."""
    with pytest.raises(error, match=message):
        choose_metric(models(model), [Example(input="w5")], metric)


def test_texts_too_short_are_refused(models):
    """One token has nothing that follows it."""
    with pytest.raises(InputError, match="two tokens or more"):
        score(METRICS["perplexity"], models("gpt2"), [Example(input="")])


def test_examples_are_needed(models):
    """All of them with references, where those are compared with."""
    with pytest.raises(InputError, match="there are no examples"):
        score(METRICS["wer"], models("bart"), [])
    mixed = [Example(input="w5", references=("w6",)), Example(input="w7")]
    with pytest.raises(InputError, match="wer compares with references, 1 of 2 have none"):
        choose_metric(models("bart"), mixed, "wer")


def test_the_usual_metrics(models):
    """Several, less those whose references are missing."""
    right = [Example(input="w5", references=("w6",))]
    for name, wanted in (("bart", ["chrf", "bleu"]), ("bert", ["accuracy", "f1"])):
        assert [metric.name for metric in usual_metrics(models(name), right)] == wanted
        assert usual_metrics(models(name), [Example(input="w5")]) == []


def classified(*pairs):
    """Macro F1 of labels found and the references."""
    answers = [Classification(label=a, scores=dict.fromkeys("abcd", 0.0)) for a, _ in pairs]
    examples = [Example(input="x", references=tuple(wanted)) for _, wanted in pairs]
    return score_answers(METRICS["f1"], answers, examples)


def test_f1_is_the_mean_over_labels_that_occur():
    """a: 2 of 2 + 1 wrong; b: 1 of 2; c was found wrongly; d never occurs."""
    scores = classified(("a", "a"), ("a", "a"), ("a", "b"), ("b", "b"), ("c", "a"))
    wanted = 100 * (2 * 2 / (3 + 3) + 2 * 1 / (1 + 2) + 0) / 3
    found = scores.estimate()
    assert found.value == pytest.approx(wanted)
    assert found.low < wanted < found.high
    assert classified(("a", "ba"), ("b", "b")).estimate().value == 100


def test_a_single_label_is_held_to_numbers_by_their_correlation(tmp_path):
    """numpy's, of texts and pairs; references must be numbers, and labels are not told apart."""
    _, _, model = eager_model(tmp_path, "bert", "bert", num_labels=1)
    texts = ["hello world", ("le petit", "quick fox"), "schön", ("the", "the")]
    numbers = ("3", "1.5", "-2e0", "0.1")
    examples = [Example(input=t, references=(n,)) for t, n in zip(texts, numbers, strict=True)]
    assert [metric.name for metric in usual_metrics(model, examples)] == ["pearson"]
    found = score(METRICS["pearson"], model, examples)
    scores = [answer.scores["LABEL_0"] for answer in model.classify(texts)]
    wanted = np.corrcoef(scores, [float(number) for number in numbers])[0, 1]
    assert found.estimate().value == pytest.approx(100 * wanted)
    assert score(METRICS["pearson"], model, examples[:1]).estimate().value == 0
    with pytest.raises(InputError, match="the reference 'LABEL_0' is no number"):
        score(METRICS["pearson"], model, [Example(input="a", references=("LABEL_0",))])
    with pytest.raises(OptionError, match="accuracy is not for models with one label, take pear"):
        choose_metric(model, examples, "accuracy")


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


def test_a_mean_has_an_interval():
    """That of its standard error."""
    values = np.random.default_rng(3).normal(2.0, 1.0, 400)
    found = estimate_mean(values)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.15)
