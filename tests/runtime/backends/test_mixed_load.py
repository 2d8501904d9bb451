"""Real graphs under a mixed load: each request gets the tokens that it gets alone.

`MIXED_LOAD=500` in the environment makes so many requests for each test, not 40 or 12.
"""

from __future__ import annotations

import dataclasses

import device_session
import fake_cuda
import fake_engines
import pytest
from mixed_load import ROWS, assert_each_as_alone

import seq2edge
from seq2edge.runtime.model import Model

# An engine refuses more inputs at a time than it was built for; longer prompts are read in parts.
SIZES = dataclasses.replace(fake_engines.CHOOSING, batch=(1, 2, ROWS), capacity=48)


@pytest.mark.parametrize("graphs", ["onnxruntime", "canonical"])
@pytest.mark.parametrize("name", ["bart", "t5", "llama", "bergamot"])
def test_on_onnxruntime(exported, name, graphs):
    """The fused graphs, where tokens are guessed too, and those that answer one token alone."""
    folder = exported(name)[1] / "bundle"
    model = seq2edge.load(folder, device="cpu", threads=1, graphs=graphs)
    assert_each_as_alone(model, 40, seed=len(name))


@pytest.mark.parametrize("name", ["bart", "llama"])
def test_on_a_device(exported, monkeypatch, name):
    """ONNX Runtime there, on doubles: sources and prompts of many lengths, recorded steps."""
    device_session.install(monkeypatch, fake_cuda.FakeCuda())
    model = seq2edge.load(exported(name)[1] / "bundle", device="cuda")
    assert_each_as_alone(model, 12, seed=len(name))


@pytest.mark.parametrize("name", ["bart", "llama"])
def test_on_engines(machine, engines, name):
    """On doubles of CUDA and TensorRT, where nobody joins or leaves a batch."""
    bundle = engines(name, sizes=SIZES)
    assert_each_as_alone(Model(bundle, machine.open(bundle)), 12, seed=1)
