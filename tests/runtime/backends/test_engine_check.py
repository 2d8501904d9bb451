"""An engine that does not answer as the model did is not used."""

from __future__ import annotations

import dataclasses
import json
import os

import fake_engines
import numpy as np
import pytest

from seq2edge.errors import EngineError
from seq2edge.runtime.backend import open_backend
from seq2edge.runtime.backends import engine_check
from seq2edge.runtime.backends.tensorrt import TensorRTBackend

SIZES = fake_engines.SIZES


def markers(tmp_path):
    """What was noted."""
    return list((tmp_path / "cache" / "seq2edge" / "engines").glob("*.json"))


def calls_of(machine, bundle):
    """How many encoder and decoder calls opening the bundle takes."""
    before = machine.cuda.calls.count("cudaStreamSynchronize")
    TensorRTBackend(bundle)
    return machine.cuda.calls.count("cudaStreamSynchronize") - before


def test_an_engine_is_checked_once_for_a_device_and_a_driver(machine, engines, tmp_path):
    """Another driver, another device or another engine asks again."""
    bundle = engines("bart")
    assert calls_of(machine, bundle) > 8
    (marker,) = markers(tmp_path)
    noted = json.loads(marker.read_text())
    assert noted["device"] == "Fake GPU"
    assert noted["parity"][0]["tokens_equal"] == noted["parity"][0]["tokens_compared"] > 0
    assert calls_of(machine, bundle) <= 1
    machine.cuda.driver += 10
    assert calls_of(machine, bundle) > 8
    assert len(markers(tmp_path)) == 2
    assert calls_of(machine, engines("bart", form="lowered")) > 8


def wrong_logits(name, values):
    """A product that lost its scale."""
    return values * 1.5 if name == "logits" else values


def no_numbers(name, values):
    """An overflow in the cache."""
    return np.full_like(values, np.nan) if name == "present_value_1" else values


def shuffled(name, values):
    """Keys of the source in the wrong order."""
    return np.ascontiguousarray(values[:, :, ::-1]) if name == "cross_key_1" else values


@pytest.mark.parametrize("spoil", [wrong_logits, no_numbers, shuffled])
def test_a_wrong_engine_is_refused(machine, engines, spoil, tmp_path):
    """An error where it was asked for; `auto` goes on and says why; it is never noted."""
    bundle = engines("bart")
    machine.trt.spoil = spoil
    with pytest.raises(EngineError, match=r"answers otherwise than the model on Fake GPU.*build"):
        open_backend(bundle, device="tensorrt")
    backend, reason = open_backend(bundle, threads=1)
    assert backend.name == "onnxruntime"
    assert "tensorrt: not used" in reason
    assert "answers otherwise" in reason
    assert not markers(tmp_path)


def test_a_wrong_encoder_is_refused(machine, engines):
    """By what it pools."""
    machine.trt.spoil = lambda _, values: values + 1
    with pytest.raises(EngineError, match="answers otherwise"):
        TensorRTBackend(engines("bert"))


def test_rounding_is_no_reason(machine, engines):
    """What half precision may do to logits."""
    rng = np.random.default_rng(0)
    machine.trt.spoil = lambda name, values: (
        (values + 1e-3 * rng.standard_normal(values.shape)).astype(np.float32)
        if name == "logits"
        else values
    )
    TensorRTBackend(engines("llama"))


@pytest.mark.parametrize("name", ["bart", "llama", "whisper", "trocr", "bert"])
@pytest.mark.parametrize(
    "sizes",
    [
        dataclasses.replace(SIZES, batch=(1, 1, 1)),
        dataclasses.replace(SIZES, batch=(1, 1, 1), beams=1),
        dataclasses.replace(SIZES, batch=(3, 3, 3), beams=2),
    ],
    ids=["one input", "one row", "three inputs"],
)
def test_engines_of_other_sizes_are_checked_in_parts(machine, engines, name, sizes):
    """Input by input, without beams, or with inputs repeated: what the engine takes."""
    TensorRTBackend(engines(name, sizes=sizes))
    machine.trt.spoil = lambda _, values: np.ascontiguousarray(values[..., ::-1])
    machine.cuda.driver += 10
    with pytest.raises(EngineError, match="answers otherwise"):
        TensorRTBackend(engines(name, sizes=sizes))


def test_a_folder_that_cannot_be_written_only_costs_the_check(machine, engines, monkeypatch):
    """Nothing is noted, and nothing fails."""
    bundle = engines("llama")
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    assert calls_of(machine, bundle) > 8
    assert calls_of(machine, bundle) > 8

    def homeless(_):
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(engine_check.Path, "expanduser", homeless)
    assert calls_of(machine, bundle) > 8


def test_a_bundle_without_a_reference_is_refused(machine, engines):
    """Nothing is served unchecked."""
    bundle = engines("llama")
    files = {n: f for n, f in bundle.manifest.files.items() if n != "reference.npz"}
    bare = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, files=files))
    with pytest.raises(EngineError, match=r"has no reference\.npz to check the engine with"):
        TensorRTBackend(bare)
