"""The verdict: both bundles run on the same inputs, and words that follow from the figures."""

from __future__ import annotations

import dataclasses
import re

import pytest

from seq2edge.bundle import Bundle
from seq2edge.evaluation.examples import Example
from seq2edge.quantize.benchmark import BATCHES
from seq2edge.quantize.pipeline import quantize_bundle
from seq2edge.quantize.verdict import Side, Verdict, _sentence, judge

FLOAT = Side(bytes=400, peak_memory=900, load_seconds=1.0, rates={1: 100.0, 8: 400.0})


def verdict(single, several, size=100, agreement=0.98):
    """A verdict on figures made up."""
    quantized = Side(
        bytes=size,
        peak_memory=300,
        load_seconds=0.5,
        rates={1: single, 8: several},
    )
    return Verdict(
        float32=FLOAT,
        quantized=quantized,
        unit="tokens",
        agreement=agreement,
        compared=8,
        quality=None,
        sentence="",
    )


@pytest.mark.parametrize("name", ["bart", "gpt2", "whisper", "bert", "bert-embedding"])
def test_every_task_is_measured(exported, tmp_path, name):
    """Size, memory, load time and both speeds are there; a bundle agrees with itself."""
    source = Bundle.open(exported(name)[1] / "bundle")
    small = quantize_bundle(source.path, tmp_path / "small", "int8-weight").bundle
    found = judge(source, small, threads=1)
    assert 0 < found.agreement <= 1
    assert found.unit == ("tokens" if source.manifest.dims.decoder else "inputs")
    for side, bundle in ((found.float32, source), (found.quantized, small)):
        assert side.bytes == bundle.size
        assert side.peak_memory > 2**24  # an interpreter with numpy alone is more
        assert side.load_seconds > 0
        assert set(side.rates) == set(BATCHES)
        assert min(side.rates.values()) > 0
    assert found.sentence.startswith("int8-weight ")
    assert "random input, which says little" in found.sentence
    same = judge(source, source, threads=1)
    assert same.agreement == pytest.approx(1.0)
    assert len(list(found.table())) == 6


def test_texts_are_used_where_they_are_given(speaking):
    """Every line is compared, and the sentence says on what."""
    source = Bundle.open(speaking("bart"))
    found = judge(
        source,
        source,
        examples=[Example(input=text) for text in ("w5 w6", "w7", "w8 w9 w10")],
        threads=1,
    )
    assert found.compared == 3
    assert found.sentence.endswith("on the examples given")


def test_the_tasks_metric_is_measured_where_there_are_references(speaking, tmp_path):
    """With both values, the change and its interval, in the table and the sentence."""
    source = Bundle.open(speaking("bart"))
    small = quantize_bundle(source.path, tmp_path / "small", "int4-weight").bundle
    examples = [Example(input=f"w{i} w{i + 1}", references=(f"w{i + 3} w4",)) for i in range(5, 25)]
    found = judge(source, small, examples=examples, threads=1)
    assert found.quality.metric == "chrf"
    change = found.quality.quantized.value - found.quality.float32.value
    assert found.quality.change.value == pytest.approx(change)
    assert [line.split()[0] for line in found.table()][-1] == "chrf"
    assert f"chrf {found.quality.float32.value:.2f} becomes" in found.sentence
    same = judge(source, source, examples=examples, metric="cer", threads=1).quality
    assert same.metric == "cer"
    assert (same.change.value, same.change.low, same.change.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("figures", "wanted"),
    [
        (verdict(200.0, 600.0), "pays here: 4.0x smaller, 2.0x as fast one at a time and 1.5x in"),
        (verdict(200.0, 300.0), "pays here for one of the two: 4.0x smaller, 2.0x the speed"),
        (verdict(50.0, 100.0), r"pays here by its size alone: 4.0x smaller, not faster \(0.5x"),
        (verdict(50.0, 100.0, size=400), "does not pay here: 1.0x smaller, not faster"),
    ],
)
def test_words_follow_from_the_figures(figures, wanted):
    """Faster, faster for some, smaller alone, or not worth it."""
    sentence = _sentence(figures, "int8", sampled=True)
    assert re.search(wanted, sentence)
    assert "keeps 98.0% of the float model's answers on the examples given" in sentence


def test_ratios():
    """Quantized over float."""
    found = verdict(200.0, 300.0)
    assert (found.size_ratio, found.speedup(1), found.speedup(8)) == (0.25, 2.0, 0.75)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.agreement = 1.0
