"""Replaying the recorded reference."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from seq2edge.bundle import Bundle
from seq2edge.bundle.reference import REFERENCE, read_reference
from seq2edge.errors import BackendError
from seq2edge.runtime import parity
from seq2edge.runtime.backends import onnxruntime as backend_module
from seq2edge.runtime.backends.onnxruntime import OnnxRuntimeBackend
from seq2edge.runtime.backends.verification import verify_graphs


def opened(exported, name):
    """The bundle and its reference."""
    bundle = Bundle.open(exported(name)[1] / "bundle")
    return bundle, read_reference(bundle.file(REFERENCE))


@pytest.mark.parametrize("name", ["bart", "llama", "bert", "whisper"])
def test_every_kind_of_graphs_gives_what_was_recorded(exported, name):
    """With figures for whoever reads them."""
    bundle, _ = opened(exported, name)
    outcomes = dict(verify_graphs(bundle, device="cpu"))
    assert set(outcomes) == {"canonical", "onnxruntime"}
    for outcome in outcomes.values():
        assert outcome.passed
        assert outcome.summary.startswith("equal: largest error ")


@pytest.mark.parametrize("change", ["top_logits_3", "log_sum_exp_5", "top_ids_0"])
def test_a_reference_that_differs_anywhere_is_seen(exported, change):
    """In the prefill or a step, in a logit, the sum of all, or a choice."""
    bundle, reference = opened(exported, "bart")
    reference[change] = reference[change].copy()
    if change.startswith("top_ids"):
        reference[change][0, :2] = reference[change][0, 1::-1]
    else:
        reference[change].flat[0] += 0.01
    backend = OnnxRuntimeBackend(bundle, threads=1)
    assert parity.replay(backend, opened(exported, "bart")[1]).within()
    assert not parity.replay(backend, reference).within()


def test_a_wrong_embedding_is_seen(exported):
    """Encoder-only models have one answer to compare."""
    bundle, reference = opened(exported, "bert-embedding")
    reference["pooled"] = reference["pooled"] + np.float32(0.01)
    found = parity.replay(OnnxRuntimeBackend(bundle, threads=1), reference)
    assert not found.within()
    assert found.tokens_compared == 0


def test_nothing_finite_is_a_difference():
    """NaN and infinity do not slip through a comparison."""
    for value in (np.nan, np.inf):
        found = parity.compare([(np.ones(3), np.array([1, value, 1]))], [], 1.0)
        assert not found.within()


def test_graphs_too_new_for_this_release_are_told_and_passed_over(exported, monkeypatch):
    """As long as one kind runs."""
    bundle, _ = opened(exported, "bart")
    library = backend_module.import_onnxruntime()
    monkeypatch.setattr(library, "__version__", "1.23.2")
    outcomes = dict(verify_graphs(bundle, device="cpu"))
    assert outcomes["onnxruntime"].summary.startswith("equal")
    assert outcomes["canonical"].summary == "not run, needs onnxruntime 1.31, 1.23.2 is installed"
    graphs = tuple(
        dataclasses.replace(g, requires={"onnxruntime": "99"}) for g in bundle.manifest.graphs
    )
    newer = dataclasses.replace(
        bundle, manifest=dataclasses.replace(bundle.manifest, graphs=graphs)
    )
    with pytest.raises(BackendError, match="runs none of its graphs"):
        list(verify_graphs(newer))
