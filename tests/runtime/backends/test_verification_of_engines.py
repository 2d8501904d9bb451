"""`verify` replays engines where a device is at hand, and says which it could not check and why."""

from __future__ import annotations

import dataclasses

import pytest
from click.testing import CliRunner

from seq2edge.bundle.engine_info import read_engine_info, write_engine_info
from seq2edge.cli import main
from seq2edge.errors import BackendError
from seq2edge.runtime.backends import tensorrt as backend_module
from seq2edge.runtime.backends.verification import verify_graphs

ENGINES = "engines for fake"


def outcomes(bundle, device="auto"):
    """By what they are of."""
    return dict(verify_graphs(bundle, device=device, threads=1))


def test_engines_replay_the_recorded_tokens(machine, engines):
    """Beside the graphs, each time; what differs fails."""
    bundle = engines("bart")
    found = outcomes(bundle)
    assert set(found) == {"canonical", "onnxruntime", ENGINES}
    summary = found[ENGINES].summary
    assert summary.startswith("as near to the model as float32 is on Fake GPU: largest error ")
    assert summary.endswith(" tokens equal")
    assert all(outcome.passed and outcome.ran for outcome in found.values())
    machine.trt.spoil = lambda name, values: values * 2 if name == "logits" else values
    outcome = outcomes(bundle)[ENGINES]
    assert outcome.summary.startswith("DIFFERENT on Fake GPU: largest error ")
    assert not outcome.passed


def test_the_device_says_what_is_replayed(machine, engines):
    """Engines alone, or graphs alone."""
    bundle = engines("llama")
    found = outcomes(bundle, "tensorrt")
    assert found["canonical"].summary == "not run, tensorrt was asked for"
    assert [name for name, outcome in found.items() if outcome.ran] == [ENGINES]
    found = outcomes(bundle, "cpu")
    assert found[ENGINES].summary == "not run, cpu was asked for"
    assert [name for name, outcome in found.items() if outcome.ran] == ["canonical", "onnxruntime"]
    assert machine.cuda.streams, "the first was on the device"


def test_engines_of_another_release_are_passed_over(make_machine, engines):
    """With the reason; asked for alone it is an error, and so are engines that are not there."""
    make_machine(release="9.9")
    bundle = engines("llama")
    outcome = outcomes(bundle)[ENGINES]
    assert outcome.passed
    assert not outcome.ran
    assert "not run, " in outcome.summary
    assert "made by tensorrt 1.0, tensorrt 9.9 is installed" in outcome.summary
    with pytest.raises(BackendError, match="none of its engines runs here; build one for this"):
        outcomes(bundle, "tensorrt")
    none = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, engines=()))
    with pytest.raises(BackendError, match="holds no engine; make one with `seq2edge build`"):
        outcomes(none, "tensorrt")


def test_engines_for_another_device_are_passed_over(make_machine, engines):
    """They are whole: nothing is wrong with the bundle."""
    bundle = engines("llama", library="tensorrt_rtx")
    trt = make_machine(rtx=True).trt
    trt.validity = (trt.EngineValidity.INVALID, trt.EngineInvalidityDiagnostics.UNSUPPORTED_CC)
    outcome = outcomes(bundle)[ENGINES]
    assert outcome.passed
    assert "not for this Fake GPU of compute capability 8.6 (unsupported cc)" in outcome.summary


def test_without_a_device_it_says_so(machine, engines, monkeypatch):
    """As on a machine that has none."""

    def missing():
        raise BackendError("tensorrt: no NVIDIA driver here (libcuda.so.1); use the cpu")

    monkeypatch.setattr(backend_module, "import_cuda", missing)
    outcome = outcomes(engines("llama"))[ENGINES]
    assert outcome.passed
    assert "not run, tensorrt: no NVIDIA driver here" in outcome.summary


def test_an_engine_that_fails_on_the_device_does_not_pass(machine, engines, monkeypatch):
    """The device stops in the middle."""

    def stops(*_):
        raise BackendError("cuda: cudaStreamSynchronize failed, cudaErrorIllegalAddress")

    monkeypatch.setattr(backend_module.TensorRTBackend, "step", stops)
    outcome = outcomes(engines("llama"))[ENGINES]
    assert not outcome.passed
    assert "do not run on Fake GPU, cuda: cudaStreamSynchronize failed" in outcome.summary


def test_the_command_tells_of_a_sidecar_that_is_wrong(machine, engines, tmp_path):
    """Damage is no reason to pass over."""
    source = engines("llama")
    (record,) = source.manifest.engines
    path = source.file(record.sidecar)
    before = path.read_bytes()
    info = read_engine_info(path)
    write_engine_info(path, dataclasses.replace(info, inputs=info.inputs[1:]))
    try:
        outcome = outcomes(source)[ENGINES]
    finally:
        path.write_bytes(before)
    assert not outcome.passed
    assert "DAMAGED: " in outcome.summary
    assert "its sidecar is of another engine" in outcome.summary
    words = ["verify", str(source.path), "--device", "tensorrt", "--trust-engines"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.stderr
    assert "engines for fake: as near to the model as float32 is on Fake GPU" in result.stdout
