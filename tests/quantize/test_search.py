"""The search: every recipe tried, the fastest within the budget chosen, or nothing written."""

from __future__ import annotations

import dataclasses

import pytest
from speaking import sentences

from seq2edge.bundle import Bundle
from seq2edge.errors import BundleError, OptionError
from seq2edge.evaluation.metrics import Estimate
from seq2edge.quantize import search as searching
from seq2edge.quantize.quantizer import Quantizer
from seq2edge.quantize.report import write_report
from seq2edge.quantize.search import Budget, quantize_automatically


@pytest.fixture
def source(speaking):
    """A tiny encoder-decoder's bundle."""
    return speaking("bart")


@pytest.fixture
def search(source, tmp_path, monkeypatch):
    """Runs a search in which these speeds are measured, by recipe; float layers slow it down."""

    def run(budget, speeds, calibration=30, evaluation=30, name="out"):
        tried = []

        def timed(models, inputs, language):
            small = models[1].bundle.manifest
            floats = sum(form == "float32" for form in small.quantization.weights.values())
            tried.append(small.precision)
            speed = speeds[small.precision] * 0.99**floats
            return [{1: 10.0, 8: 20.0}, {1: 10.0 * speed, 8: 20.0 * speed}]

        monkeypatch.setattr(searching, "measure_throughput", timed)
        quantizer = Quantizer(source, calibration=sentences(calibration), threads=1)
        found = quantize_automatically(
            quantizer, tmp_path / name, Budget.parse(budget), sentences(evaluation)
        )
        return (*found, tried)

    return run


SPEEDS = {"int8-weight": 2.0, "int4-weight": 2.5, "int8-dynamic": 3.0, "int8-static": 1.5}


def test_the_fastest_within_the_budget_is_written(search, tmp_path):
    """With every trial told, and what each layer of the chosen recipe loses."""
    report, found, tried = search("agreement-100", SPEEDS)
    assert sorted(tried) == sorted(SPEEDS)
    assert found.chosen.recipe == "int8-dynamic"
    assert set(found.layers) == {"int8-dynamic"}
    assert report.bundle.manifest.precision == "int8-dynamic"
    assert Bundle.open(tmp_path / "out", hashes=True).manifest == report.bundle.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    marked = [line for line in found.table() if line.startswith("*")]
    assert len(marked) == 1
    assert "int8-dynamic" in marked[0]
    assert "3.00" in marked[0]


def test_of_equally_fast_ones_the_smallest_is_written(search):
    """Speeds within the noise are equal."""
    _, found, _ = search("agreement-100", {**SPEEDS, "int4-weight": 2.95})
    assert found.chosen.recipe == "int4-weight"


def test_layers_that_err_most_get_higher_precision(search):
    """A recipe that loses too much, and is faster, is tried with ever fewer of them."""
    _, free, _ = search("agreement-100", SPEEDS)
    losses = {trial.recipe: -trial.change.value for trial in free.trials}
    allowed = losses["int8-dynamic"] * 0.6
    assert allowed > 0
    speeds = dict.fromkeys(SPEEDS, 1.0) | {"int8-dynamic": 3.0}
    report, found, _ = search(f"agreement-{allowed:.3f}", speeds, name="higher")
    refined = [trial for trial in found.trials if trial.higher_precision]
    assert refined
    assert set(found.layers) == {"int8-dynamic"}
    order = [part.layer for part in found.layers["int8-dynamic"]]
    for trial in refined:
        assert list(trial.higher_precision) == order[: len(trial.higher_precision)]
        assert trial.values()["finer"] == trial.higher_precision
        assert trial.name == f"int8-dynamic, {len(trial.higher_precision)} in higher precision"
    assert found.chosen.within
    kept = {w for part in found.layers["int8-dynamic"] for w in part.weights} & set(
        found.chosen.options.higher_precision
    )
    forms = report.bundle.manifest.quantization.weights
    floats = {name.split(": ")[1] for name, form in forms.items() if form == "float32"}
    assert floats == kept


def test_a_budget_that_nothing_meets_writes_nothing(search, tmp_path, monkeypatch):
    """And says how near the nearest came."""
    monkeypatch.setattr(searching, "measure_layers", lambda *_: [])
    with pytest.raises(
        OptionError, match=r"budget: agreement-0 is not reached, the closest is int\S+ with -[\d.]+"
    ):
        search("agreement-0", SPEEDS)
    assert list(tmp_path.iterdir()) == []


def test_a_metric_of_another_task_is_refused(search, tmp_path):
    """Before anything is tried."""
    with pytest.raises(OptionError, match="metric: accuracy is not for models made to generate"):
        search("accuracy-1", SPEEDS)
    assert list(tmp_path.iterdir()) == []


def test_a_destination_that_is_taken_is_refused_at_once(search, tmp_path):
    """Not after the search."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    with pytest.raises(BundleError, match="exists, choose another place"):
        search("agreement-5", {}, calibration=0)


@pytest.mark.parametrize(
    ("calibration", "evaluation", "message"),
    [(0, 30, "calibration: auto needs examples"), (30, 0, "evaluation: auto needs examples")],
)
def test_examples_are_needed(search, calibration, evaluation, message):
    """Both kinds, with what they are for."""
    with pytest.raises(OptionError, match=message):
        search("agreement-5", SPEEDS, calibration, evaluation)


def test_the_report_is_one_page(search, tmp_path):
    """Every trial in a row, three kinds of plots, nothing loaded from elsewhere."""
    _, free, _ = search("agreement-100", SPEEDS)
    parts = searching.LayerError(layer="<b>", weights=("w",), values=3, error=0.1)
    found = dataclasses.replace(free, layers={"int8-dynamic": (parts,)})
    write_report(tmp_path / "report.html", found, "A <sentence>.", "title & more")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 3
    assert page.count("<tr") == 2 + len(SPEEDS)
    assert '<tr class="chosen"><td>int8-dynamic</td>' in page
    assert "A &lt;sentence&gt;." in page
    assert "<title>title &amp; more</title>" in page
    for outside in ("<script", "<link", "<img", 'href="http', "src="):
        assert outside not in page


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
