"""The search: every recipe tried, the fastest within the budget chosen, or nothing written."""

from __future__ import annotations

import dataclasses

import pytest
from speaking import sentences, speaking_bundle

from seq2edge.bundle import Bundle
from seq2edge.errors import BundleError, OptionError
from seq2edge.quantize import automatic
from seq2edge.quantize.search import quantize_automatically
from seq2edge.quantize.budget import Budget
from seq2edge.quantize.pipeline import Quantizer
from seq2edge.quantize.report import write_report


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A tiny encoder-decoder's bundle."""
    return speaking_bundle("bart", tmp_path_factory.mktemp("bart"))


@pytest.fixture
def search(source, tmp_path, monkeypatch):
    """Runs a search in which these speeds are measured, by recipe; finer layers slow it down."""

    def run(budget, speeds, calibration=30, evaluation=30, name="out"):
        tried = []

        def timed(models, inputs, language):
            small = models[1].bundle.manifest
            finer = sum(form == "float32" for form in small.quantization.weights.values())
            tried.append(small.precision)
            speed = speeds[small.precision] * 0.99**finer
            return [{1: 10.0, 8: 20.0}, {1: 10.0 * speed, 8: 20.0 * speed}]

        monkeypatch.setattr(automatic, "race", timed)
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


def test_layers_that_err_most_are_kept_finer(search):
    """A recipe that loses too much, and is faster, is tried with ever fewer finer layers."""
    _, free, _ = search("agreement-100", SPEEDS)
    losses = {trial.recipe: -trial.change.value for trial in free.trials}
    allowed = losses["int8-dynamic"] * 0.6
    assert allowed > 0
    speeds = dict.fromkeys(SPEEDS, 1.0) | {"int8-dynamic": 3.0}
    report, found, _ = search(f"agreement-{allowed:.3f}", speeds, name="finer")
    finer = [trial for trial in found.trials if trial.finer]
    assert finer
    assert set(found.layers) == {"int8-dynamic"}
    order = [part.layer for part in found.layers["int8-dynamic"]]
    for trial in finer:
        assert list(trial.finer) == order[: len(trial.finer)]
    assert found.chosen.within
    kept = {w for part in found.layers["int8-dynamic"] for w in part.weights} & set(
        found.chosen.options.finer
    )
    forms = report.bundle.manifest.quantization.weights
    floats = {name.split(": ")[1] for name, form in forms.items() if form == "float32"}
    assert floats == kept


def test_a_budget_that_nothing_meets_writes_nothing(search, tmp_path, monkeypatch):
    """And says how near the nearest came."""
    monkeypatch.setattr(automatic, "measure_layers", lambda *_: [])
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
    parts = automatic.LayerError(layer="<b>", weights=("w",), values=3, error=0.1)
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
