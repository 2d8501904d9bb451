"""Running bundles beside each other."""

from __future__ import annotations

import numpy as np
import pytest
from speaking import sentences

import seq2edge
from seq2edge.evaluation.metrics import score
from seq2edge.quantize.benchmark import (
    BATCHES,
    agreement_metric,
    agreements,
    greedy_outputs,
    measure_throughput,
    model_inputs,
)
from seq2edge.quantize.pipeline import quantize_bundle


@pytest.fixture(scope="module")
def models(speaking, tmp_path_factory):
    """A float model and its 4-bit twin."""
    source, folder = speaking("bart"), tmp_path_factory.mktemp("bart")
    small = quantize_bundle(source, folder / "small", "int4-weight").bundle
    return [seq2edge.load(path, device="cpu", threads=1) for path in (source, small.path)]


def test_agreement_counts_up_to_the_first_difference():
    """Later tokens follow from other histories, and say nothing."""
    assert list(agreements([(1, 2, 3, 4)], [(1, 2, 3, 4)])) == [1]
    assert list(agreements([(1, 2, 3, 4)], [(1, 2, 9, 4)])) == [0.5]
    assert list(agreements([(1, 2), (3, 4)], [(9, 2), (3, 4)])) == [0, 1]
    vectors = np.array([[1.0, 0.0]]), np.array([[1.0, 1.0]])
    assert list(agreements(*vectors)) == pytest.approx([0.5**0.5])
    scores = np.array([[1.0], [3.0]])
    assert list(agreements(scores, np.array([[1.0], [3.5]]))) == [1, 0.75]
    assert list(agreements(scores, -scores)) == [0, 0], "its sign is not all that counts"
    assert list(agreements(scores[:1], scores[:1] * 0.5)) == [0.75]


def test_agreement_is_a_metric(models):
    """A model agrees with itself to 100 percent, with its quantized twin to less."""
    examples = sentences(20)
    metric = agreement_metric(models[0], model_inputs(models[0], examples))
    same, other = (score(metric, model, examples) for model in models)
    assert same.estimate().value == 100
    shares = agreements(
        *(greedy_outputs(model, model_inputs(models[0], examples)) for model in models)
    )
    assert other.estimate().value == pytest.approx(100 * np.mean(list(shares)))
    assert other.change_from(same).value < 0


def test_throughput_is_of_every_model_and_batch(models):
    """In the order of the models."""
    measured = measure_throughput(models, model_inputs(models[0], ()))
    assert len(measured) == 2
    for throughput in measured:
        assert set(throughput) == set(BATCHES)
        assert min(throughput.values()) > 0
