"""New engines are checked on the device of this machine before they are put into the bundle."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest
from bundle_folders import edit, tree
from click.testing import CliRunner

from seq2edge.bundle import Bundle
from seq2edge.cli import main
from seq2edge.errors import BackendError, EngineError
from seq2edge.export.tensorrt.build import build_bundle, plan_request
from seq2edge.export.tensorrt.sizes import BuildSizes
from seq2edge.export.tensorrt.targets import TARGETS
from seq2edge.files.storage import fingerprint
from seq2edge.runtime.backends import tensorrt as backend_module
from seq2edge.runtime.backends.tensorrt import TensorRTBackend

OPTIONS = ["--batch", "1:4", "--beams", "2", "--source", "1:16", "--prompt", "1:8"]
NO_DRIVER = "tensorrt: no NVIDIA driver here (libcuda.so.1: cannot open)"


def test_engines_that_answer_as_the_model_are_added(library, bundle, build_here, tmp_path):
    """With the device's verdict, which the first load does not ask for again."""
    trt = library()
    report = build_here(bundle)
    verdict = report.verdict
    assert verdict.passed
    assert (verdict.device, verdict.precision) == ("Fake GPU", "float32")
    assert verdict.parity.tokens_equal == verdict.parity.tokens_compared > 0
    assert report.unchecked == ""
    assert {engine.role for engine in report.bundle.manifest.engines} == {"encoder", "decoder"}
    assert len(list((tmp_path / "cache" / "seq2edge" / "engines").iterdir())) == 1
    waits = trt.cuda.calls.count("cudaStreamSynchronize")
    TensorRTBackend(Bundle.open(bundle.path))
    assert trt.cuda.calls.count("cudaStreamSynchronize") <= waits + 1
    kept = build_here(bundle)
    assert (kept.reused, kept.verdict, kept.unchecked) == (("encoder", "decoder"), None, "")


def test_an_engine_of_somebody_else_is_built_anew(library, bundle, build_here, monkeypatch):
    """One that fits would be kept, and the check of what is new would open it."""
    library()
    built = build_here(bundle)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("XDG_CACHE_HOME", str(bundle.path.parent / "another machine"))
        with pytest.raises(BackendError, match="not built on this machine"):
            TensorRTBackend(Bundle.open(bundle.path))
        trusted = Bundle.open(bundle.path, trust_engines=True)
        assert TensorRTBackend(trusted).target == "here"
        assert build_here(bundle).reused == ()
        assert TensorRTBackend(Bundle.open(bundle.path)).target == "here"
    assert {info.role for info in built.engines} == {"encoder", "decoder"}


def test_a_plan_in_the_place_of_one_that_was_built_here_is_not_kept(library, bundle, build_here):
    """A stranger knows the hash of our plan, and puts another below its sidecar."""
    library()
    build_here(bundle)
    opened = Bundle.open(bundle.path)
    (record,) = [each for each in opened.manifest.engines if each.role == "decoder"]
    opened.file(record.file).write_bytes(b"x" * opened.manifest.files[record.file].size)
    changed = fingerprint(opened.file(record.file))
    edit(bundle.path, lambda values: values["files"][record.file].update(sha256=changed.sha256))
    with pytest.raises(EngineError, match="its sidecar says"):
        TensorRTBackend(Bundle.open(bundle.path, hashes=True))
    assert build_here(bundle).reused == ("encoder",)


def test_where_nothing_can_be_noted_the_build_says_so(library, bundle, build_here, monkeypatch):
    """The engine is there, and has to be trusted."""
    library()
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    report = build_here(bundle)
    assert report.verdict.passed
    assert any("run them with --trust-engines" in remark for remark in report.remarks)
    with pytest.raises(BackendError, match="not built on this machine"):
        TensorRTBackend(Bundle.open(bundle.path))


def test_an_engine_that_answers_otherwise_is_not_added(library, bundle, build_here, tmp_path):
    """The error has the figures, and the bundle is as it was: without engines, or with the old."""
    trt = library()
    before = tree(bundle.path)
    trt.spoil = lambda name, values: values * 1.5 if name == "logits" else values
    message = (
        rf"^{bundle.path}: its engines for here answer otherwise than the model on Fake GPU, "
        r"largest error .* tokens equal; the bundle is as it was, build from a larger precision$"
    )
    with pytest.raises(EngineError, match=message):
        build_here(bundle)
    assert tree(bundle.path) == before
    assert not (tmp_path / "cache" / "seq2edge" / "engines").exists()
    trt.spoil = None
    build_here(bundle)
    before = tree(bundle.path)
    trt.spoil = lambda name, values: values * 3 if name == "cross_key_0" else values
    with pytest.raises(EngineError, match="answer otherwise"):
        build_here(bundle, capacity=40)
    assert tree(bundle.path) == before


def test_an_engine_that_does_not_open_where_it_was_built_is_not_added(
    library, bundle, build_here, monkeypatch
):
    """The error names the bundle's own file, not the place where it was tried."""
    trt = library()
    before = tree(bundle.path)
    monkeypatch.setattr(trt, "Runtime", _Closed)
    with pytest.raises(EngineError) as found:
        build_here(bundle)
    message = str(found.value)
    assert message.startswith(f"{bundle.path}/engines/here/")
    assert "does not open it on Fake GPU" in message
    assert message.endswith("; the bundle is as it was")
    assert tree(bundle.path) == before


class _Closed:
    """A runtime that opens nothing."""

    def __init__(self, log):
        pass

    def deserialize_cuda_engine(self, _):
        """As for another device."""


def test_an_engine_for_another_device_is_added_unchecked(library, bundle, monkeypatch):
    """TensorRT-RTX builds on any machine, also on one whose GPU is another."""
    trt = library(rtx=True, release="1.7.1")
    trt.validity = (trt.EngineValidity.INVALID, trt.EngineInvalidityDiagnostics.UNSUPPORTED_CC)
    monkeypatch.setitem(
        TARGETS, "rtx-ampere", dataclasses.replace(TARGETS["rtx-ampere"], capability="")
    )
    sizes = BuildSizes(batch=(1, 1, 4), beams=2, source=(1, 8, 16), prompt=(1, 4, 8), capacity=32)
    report = build_bundle(plan_request(bundle, "rtx-ampere", sizes))
    assert report.verdict is None
    assert report.unchecked.startswith(f"{bundle.path}/engines/rtx-ampere/")
    assert "not for this Fake GPU of compute capability 8.6 (unsupported cc)" in report.unchecked
    assert len(Bundle.open(bundle.path, hashes=True).manifest.engines) == 2


def test_the_command_prints_the_verdict(library, bundle):
    """In a line, or in JSON."""
    library()
    arguments = ["build", str(bundle.path), "--target", "here", *OPTIONS]
    result = CliRunner().invoke(main, [*arguments, "--capacity", "32"])
    assert result.exit_code == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("checked: ")]
    assert line.startswith("checked: as near to the model as float32 is on Fake GPU: largest error")
    assert line.endswith(" tokens equal")
    result = CliRunner().invoke(main, [*arguments, "--capacity", "40", "--json"])
    values = json.loads(result.stdout)
    assert values["verdict"]["passed"]
    assert values["verdict"]["parity"]["tokens_equal"] > 0
    assert values["unchecked"] == ""


def test_without_a_gpu_the_command_says_when_they_are_checked(library, bundle, monkeypatch):
    """One line, with the reason."""
    library()

    def missing():
        raise BackendError(f"{NO_DRIVER}; use the cpu")

    monkeypatch.setattr(backend_module, "import_cuda", missing)
    arguments = ["build", str(bundle.path), "--target", "here", "--capacity", "32", *OPTIONS]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    assert f"not checked here ({NO_DRIVER}): will be when first opened" in result.stdout
    assert "checked: " not in result.stdout.replace("not checked", "")
