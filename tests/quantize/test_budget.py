"""What a model may lose: read from a few characters, refused where it means nothing."""

from __future__ import annotations

import pytest

from seq2edge.errors import OptionError
from seq2edge.evaluation.metrics import Estimate
from seq2edge.quantize.budget import Budget


def estimate(value):
    """A value with an interval around it."""
    return Estimate(value=value, low=value - 1, high=value + 1)


@pytest.mark.parametrize(
    ("text", "before", "change", "holds"),
    [
        ("bleu-0.3", 30.0, -0.29, True),
        ("bleu-0.3", 30.0, -0.31, False),
        ("bleu-0.3", 30.0, 2.0, True),
        ("wer+0.5", 5.0, 0.5, True),
        ("wer+0.5", 5.0, 0.51, False),
        ("perplexity+2%", 20.0, 0.39, True),
        ("perplexity+2%", 20.0, 0.41, False),
        ("per-nostress+0.5", 5.0, 0.51, False),
        ("rougeL-0.5", 40.0, -0.4, True),
        ("exact-nostress-1", 40.0, -0.9, True),
        ("accuracy-0", 90.0, 0.0, True),
        ("agreement-5", 100.0, -4.9, True),
        (" chrf - 1.5 % ", 40.0, -0.61, False),
    ],
)
def test_what_is_lost_is_compared_with_what_may_be(text, before, change, holds):
    """In the metric's direction, in its units or in percent; a gain is no loss."""
    assert Budget.parse(text).holds(estimate(before), estimate(change)) == holds


def test_the_worst_value_allowed():
    """For the line in a plot."""
    assert Budget.parse("chrf-1.5%").limit(estimate(40.0)) == pytest.approx(39.4)
    assert Budget.parse("wer+0.5").limit(estimate(5.0)) == pytest.approx(5.5)


@pytest.mark.parametrize("text", ["bleu-0.3", "wer+0.5", "perplexity+2%", "agreement-5"])
def test_a_budget_is_written_as_it_is_read(text):
    """So that a table can be run again."""
    assert str(Budget.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "budget: '' is none, give a metric"),
        ("bleu", "is none"),
        ("bleu-", "is none"),
        ("0.3", "is none"),
        ("bleu-0.3-0.2", "is none"),
        ("rouge-1", "metric: 'rouge' is unknown, known: "),
        ("bleu+0.3", r"larger values of bleu are better; write bleu-0\.3"),
        ("perplexity-2%", r"smaller values of perplexity are better; write perplexity\+2%"),
    ],
)
def test_other_texts_are_refused(text, message):
    """With what to write instead."""
    with pytest.raises(OptionError, match=message):
        Budget.parse(text)
