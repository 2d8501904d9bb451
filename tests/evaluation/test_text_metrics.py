"""Metrics of texts: known values, with one reference and with several."""

from __future__ import annotations

import sys

import pytest
import sacrebleu

from seq2edge.errors import BackendError, InputError
from seq2edge.evaluation.examples import Example
from seq2edge.evaluation.metrics import METRICS, score_answers
from seq2edge.runtime.sequences import GeneratedText


def measured(name, *pairs):
    """The metric of answers, each with its reference or a tuple of them."""
    answers = [
        GeneratedText(text=text, ids=(), score=0.0, finish_reason="stop") for text, _ in pairs
    ]
    wanted = [(right,) if isinstance(right, str) else right for _, right in pairs]
    examples = [Example(input="x", references=references) for references in wanted]
    return score_answers(METRICS[name], answers, examples).estimate().value


def test_word_and_character_errors_are_edits_over_the_reference():
    """Case and punctuation do not count; 1 of 2 words and 0 of 3 make 20 %."""
    pairs = [("Hello word", "hello world!"), ("a, B c.", "A b C")]
    assert measured("wer", *pairs) == pytest.approx(20)
    assert measured("cer", *pairs) == pytest.approx(100 / 16)


def test_of_several_references_the_proportionally_nearest_counts():
    """2 edits of 4 words are nearer than 1 of 1, and 4 is the length that is added up."""
    right = ("x", "a b c d")
    assert measured("wer", ("a b", right)) == pytest.approx(50)
    assert measured("wer", ("a b", right), ("e f", "e f")) == pytest.approx(100 * 2 / 6)
    assert measured("wer", ("x", right)) == 0


def test_phoneme_errors_are_of_symbols_as_they_are():
    """Case, punctuation and stress count, spacing does not; without stress 0, 1, 2 do not."""
    pairs = [("HH AH1  L OW0", "HH AH0 L OW1"), ("a . B'", "A . B'")]
    assert measured("per", *pairs) == pytest.approx(100 * 3 / 7)
    assert measured("per-nostress", *pairs) == pytest.approx(100 / 7)
    assert measured("per-nostress", ("AH3 1 K2x", "AH 1 K2x")) == pytest.approx(100 / 3)


def test_exact_answers_equal_any_reference():
    """But for spacing; 100 minus it is the rate of wrong sequences."""
    pairs = [("K AE1 T", ("X", " K  AE1 T ")), ("k AE1 T", "K AE1 T"), ("K AE0 T", "K AE1 T")]
    assert measured("exact", *pairs) == pytest.approx(100 / 3)
    assert measured("exact-nostress", *pairs) == pytest.approx(200 / 3)


def test_translation_metrics_are_sacrebleus_own():
    """On the whole set, not a mean of sentences; with one reference and with two."""
    from sacrebleu.metrics import BLEU, CHRF

    answers = ["the cat sat on the mat", "he reads a big book today"]
    first = ["the cat sat on a mat", "she reads a big book now"]
    second = ["a cat was sitting on the mat", "he is reading a big book today"]
    for streams in ([first], [first, second]):
        pairs = list(zip(answers, zip(*streams, strict=True), strict=True))
        for name, scorer in (("bleu", BLEU()), ("chrf", CHRF())):
            wanted = scorer.corpus_score(answers, streams).score
            assert measured(name, *pairs) == pytest.approx(wanted)


def test_rouge_is_the_f_measure_against_the_best_reference():
    """Shared words, pairs and the longest common subsequence; endings are not stemmed."""
    pair = ("the cat sat", ("dogs", "the sat cat on"))
    assert measured("rouge1", pair) == pytest.approx(100 * 6 / 7)
    assert measured("rouge2", pair) == 0
    assert measured("rougeL", pair) == pytest.approx(100 * 4 / 7)
    assert measured("rouge1", ("cats", "cat")) == 0


def test_references_that_a_metric_cannot_read_are_refused():
    """Signs alone are no words, and ROUGE reads no other script: it would give 0 to all."""
    with pytest.raises(InputError, match="reference '!' holds no words"):
        measured("wer", ("a", "!"))
    with pytest.raises(InputError, match="rouge1 reads a-z and 0-9 alone, the reference '猫'"):
        measured("rouge1", ("a", "猫"))


def test_a_missing_library_names_what_to_install(monkeypatch):
    """The extra that has it."""
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(BackendError, match=r"metric: .*jiwer.*; install seq2edge\[quantize\]"):
        measured("wer", ("a", "b"))


@pytest.mark.parametrize("scorer", [sacrebleu.metrics.BLEU, sacrebleu.metrics.CHRF])
def test_sacrebleu_still_has_the_private_methods_that_are_called(scorer):
    """They count sentences and score added counts, as its public function does for a corpus."""
    answers, references = ["a cat sat", "the dog ran far"], ["a cat sat down", "the dog ran"]
    parts = scorer()._extract_corpus_statistics(answers, [references])
    added = [sum(column) for column in zip(*parts, strict=True)]
    score = scorer()._compute_score_from_stats(added).score
    assert score == scorer().corpus_score(answers, [references]).score
