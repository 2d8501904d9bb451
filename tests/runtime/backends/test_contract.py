"""Every backend keeps the contract of `seq2edge.testing`, on tiny models."""

from __future__ import annotations

import device_session
import fake_cuda
import fake_engines
import pytest
from speaking import eight_bit_caches

from seq2edge.bundle import Bundle
from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.export.eager import EagerBackend
from seq2edge.runtime.backends.onnxruntime import OnnxRuntimeBackend
from seq2edge.testing import CHECKS, check_backend, examples_of

NOT_RUNNING = {"keep", "join", "verifies"}


def unchecked(backend, bundle):
    """The rules that have nothing to say, for inputs of the bundle's sizes."""
    return set(check_backend(backend, examples_of(bundle.manifest.dims)))


@pytest.mark.parametrize("target", ["onnxruntime", "canonical"])
@pytest.mark.parametrize("name", ["llama", "mistral", "bart", "t5", "whisper", "bergamot", "lfm2"])
def test_onnxruntime_on_the_cpu(exported, name, target):
    """Both kinds of graphs; the canonical ones give all logits."""
    bundle = Bundle.open(exported(name)[1] / "bundle")
    backend = OnnxRuntimeBackend(bundle, target=target, threads=1)
    canonical = set() if backend.top_k else {"candidates", "verifies"}
    assert unchecked(backend, bundle) == {"pooled"} | canonical
    assert bool(backend.top_k) == (target == "onnxruntime")


@pytest.mark.parametrize("name", ["bart", "llama"])
def test_caches_and_memories_in_8_bits(speaking, made_once, name):
    """Each row of beams has its own memory, which comes, goes and is repeated with it."""
    report = made_once(eight_bit_caches, speaking(name), memory=name == "bart")
    bundle = Bundle.open(report.bundle.path)
    backend = OnnxRuntimeBackend(bundle, threads=1)
    assert backend.memory_by_row == (name == "bart")
    assert unchecked(backend, bundle) == {"pooled"}


@pytest.mark.parametrize("name", ["bert", "bert-embedding"])
def test_encoder_only_models(exported, machine, engines, name):
    """On ONNX Runtime, in PyTorch, and as engines."""
    folder = exported(name)[1]
    bundle = Bundle.open(folder / "bundle")
    for backend in (
        OnnxRuntimeBackend(bundle, threads=1),
        EagerBackend(load_checkpoint(folder / "checkpoint").model),
        machine.open(engines(name)),
    ):
        assert unchecked(backend, bundle) == {*CHECKS} - {"pooled"}


@pytest.mark.parametrize("name", ["llama", "bart"])
def test_onnxruntime_on_a_device(exported, monkeypatch, name):
    """A double of ONNX Runtime there, over one of CUDA that is strict about memory."""
    bundle = Bundle.open(exported(name)[1] / "bundle")
    device_session.install(monkeypatch, fake_cuda.FakeCuda())
    backend = OnnxRuntimeBackend(bundle, device="cuda")
    assert unchecked(backend, bundle) == {"pooled", "verifies"}


@pytest.mark.parametrize("name", ["llama", "bart", "whisper"])
def test_the_model_in_pytorch(exported, name):
    """The reference itself, whose caches are not saved."""
    folder = exported(name)[1]
    backend = EagerBackend(load_checkpoint(folder / "checkpoint").model)
    bundle = Bundle.open(folder / "bundle")
    assert unchecked(backend, bundle) == {"candidates", "saved", "pooled"} | NOT_RUNNING


@pytest.mark.parametrize(
    ("form", "sizes"), [("masked", fake_engines.SIZES), ("lowered", fake_engines.CHOOSING)]
)
@pytest.mark.parametrize("name", ["llama", "bart", "whisper"])
def test_engines(machine, engines, name, form, sizes):
    """On doubles of CUDA and TensorRT; tokens chosen on the device, or by the host."""
    bundle = engines(name, form=form, sizes=sizes)
    choosing = set() if sizes.top_k else {"candidates"}
    assert unchecked(machine.open(bundle), bundle) == {"saved", "pooled"} | choosing | NOT_RUNNING
