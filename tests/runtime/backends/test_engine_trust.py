"""An engine is code: a stranger's reaches no library before somebody says that it is trusted."""

from __future__ import annotations

import dataclasses

import pytest
from click.testing import CliRunner

import seq2edge
from seq2edge.bundle import Bundle
from seq2edge.cli import main
from seq2edge.errors import BackendError
from seq2edge.runtime.backend import open_backend
from seq2edge.runtime.backends.engine_trust import built_here, note_built
from seq2edge.runtime.backends.tensorrt import TensorRTBackend
from seq2edge.runtime.backends.verification import verify_graphs


@pytest.fixture
def unopened(machine, monkeypatch):
    """A machine whose library must see no plan."""

    def opens(*_):
        raise AssertionError("the plan was opened")

    monkeypatch.setattr(machine.trt, "Runtime", opens)
    return machine


def test_a_foreign_plan_is_not_opened(unopened, engines):
    """`auto` takes ONNX Runtime and says why in one line; asked for, it says what to do."""
    bundle = Bundle.open(engines("llama").path)
    message = "engines/decoder.plan: not built on this machine, and an engine is code; build it"
    with pytest.raises(BackendError, match=message) as caught:
        open_backend(bundle, device="tensorrt")
    assert "trust where it comes from with --trust-engines" in str(caught.value)
    backend, reason = open_backend(bundle, threads=1)
    assert backend.name == "onnxruntime"
    assert message in reason
    assert "\n" not in reason
    outcome = dict(verify_graphs(bundle, threads=1))["engines for fake"]
    assert (outcome.passed, outcome.ran) == (True, False)
    assert "not built on this machine" in outcome.summary


def test_who_trusts_its_origin_opens_it(machine, engines):
    """By `load`, and by every command that runs a model."""
    path = engines("llama").path
    assert seq2edge.load(path, trust_engines=True).backend.name == "tensorrt"
    assert seq2edge.load(path, threads=1).backend.name == "onnxruntime"  # though it is open now
    words = ["verify", str(path), "--device", "tensorrt"]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 1
    assert "not built on this machine" in refused.stdout
    assert CliRunner().invoke(main, [*words, "--trust-engines"]).exit_code == 0


def test_what_was_built_here_is_opened(machine, engines, tmp_path):
    """By the hash of the plan, wherever the bundle lies now; one is not enough."""
    bundle = dataclasses.replace(engines("bart"), trust_engines=False)
    for record in bundle.manifest.engines:
        with pytest.raises(BackendError, match="not built on this machine"):
            TensorRTBackend(bundle)
        plan = bundle.manifest.files[record.file].sha256
        assert not built_here(plan)
        assert note_built(plan, "bundle") == ""
        assert built_here(plan)
    assert TensorRTBackend(bundle).target == "fake"
