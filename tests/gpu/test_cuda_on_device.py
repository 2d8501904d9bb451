"""ONNX Runtime's CUDA provider on a real device: the CPU's tokens, computed on the device."""

from __future__ import annotations

import collections
import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from engine_decoding import decoded
from mixed_load import assert_each_as_alone

import seq2edge
from seq2edge.bundle.reference import REFERENCE, read_reference
from seq2edge.runtime import parity
from seq2edge.runtime.backends.onnxruntime import OnnxRuntimeBackend
from seq2edge.runtime.options import DecodeOptions

GENERATORS = ["bart", "t5", "whisper", "llama", "marian", "gpt2", "mistral", "qwen3"]
OPTIONS = {
    "greedy": DecodeOptions(eos_token_id=2, pad_token_id=1),
    "beams": DecodeOptions(eos_token_id=2, pad_token_id=1, num_beams=4, no_repeat_ngram_size=2),
}
ON_THE_DEVICE = {
    "Attention",
    "MatMul",
    "Gemm",
    "TensorScatter",
    "SkipLayerNormalization",
    "Softmax",
}

pytestmark = pytest.mark.gpu


def tokens(backend, bundle, options, seed):
    """The best sequences of three inputs of unequal lengths."""
    lengths = (12, 5, 1) if bundle.manifest.dims.encoder is None else (7, 4, 1)
    return [ids for ids, _ in decoded(backend, bundle, lengths, options, seed)]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", GENERATORS)
def test_the_device_gives_the_tokens_of_the_cpu(cuda, bundles, name, options):
    """Greedy and beams, rows of unequal lengths; other graphs there than on the CPU."""
    bundle = bundles(name)
    device = OnnxRuntimeBackend(bundle, device="cuda")
    host = OnnxRuntimeBackend(bundle, device="cpu", target="onnxruntime")
    for seed in range(3):
        found = tokens(device, bundle, OPTIONS[options], seed)
        assert found == tokens(host, bundle, OPTIONS[options], seed)


@pytest.mark.parametrize("name", GENERATORS)
def test_the_device_answers_as_the_model_did(cuda, bundles, name):
    """The recorded program, within the table's tolerance for float32 and with all its tokens."""
    bundle = bundles(name)
    reference = read_reference(bundle.file(REFERENCE))
    answers = parity.replay(OnnxRuntimeBackend(bundle, device="cuda"), reference)
    assert answers.within(), answers.figures


def test_an_encoder_on_the_device_gives_the_same_scores(cuda, bundles):
    """Within the tolerance of float32."""
    bundle = bundles("bert")
    source = np.random.default_rng(0).integers(3, 90, (2, 9)), np.array([9, 4])
    scores = OnnxRuntimeBackend(bundle, device="cuda").pool(*source)
    wanted = OnnxRuntimeBackend(bundle, device="cpu").pool(*source)
    np.testing.assert_allclose(scores, wanted, atol=parity.TOLERANCES["float32"].absolute)


@pytest.mark.parametrize("name", ["bart", "llama"])
def test_steps_are_recorded_and_found_again(cuda, bundles, name):
    """With beams too; a second request of the same sizes records nothing."""
    backend = OnnxRuntimeBackend(bundles(name), device="cuda")
    for options in OPTIONS.values():
        tokens(backend, bundles(name), options, 0)
        steps = backend._on_device.steps
        recorded, replays = len(steps._graphs), steps.replays
        assert replays > 0
        tokens(backend, bundles(name), options, 0)
        assert len(steps._graphs) == recorded
        assert steps.replays > replays


@pytest.mark.parametrize("name", ["bart", "llama"])
def test_requests_that_join_and_leave_are_answered_as_alone(cuda, bundles, name):
    """Of every kind, in one running batch."""
    assert_each_as_alone(seq2edge.load(bundles(name).path, device="cuda"), 60, seed=len(name))


def test_saved_keys_and_values_come_back(cuda, bundles):
    """Read from the device and written to another cache, which goes on as the first."""
    backend = OnnxRuntimeBackend(bundles("llama"), device="cuda")
    prompt, ones = np.random.default_rng(0).integers(3, 90, (1, 9)), np.ones(1, dtype=np.int64)
    first, second = (backend.start(None, 1, None) for _ in range(2))
    backend.step(prompt, ones * 9, first)
    second.write(first.read(), 9)
    for token in ([[5]], [[6]], [[7]]):
        answers = [backend.step(np.array(token), ones, cache).logits() for cache in (first, second)]
        np.testing.assert_allclose(*answers, atol=1e-5)


@pytest.mark.parametrize("name", GENERATORS)
def test_the_layers_run_on_the_device(cuda, bundles, name, tmp_path):
    """No product, attention or cache of the canonical decoder is left to the CPU."""
    bundle = bundles(name)
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, os.fspath(tmp_path / "profile")
    graph = bundle.graph("decoder", "canonical")
    session = onnxruntime.InferenceSession(
        os.fspath(bundle.file(graph.file)), options, providers=["CUDAExecutionProvider"]
    )
    sizes = {"batch": 1, "rows": 1, "source": 8, "new": 1, "capacity": 16}
    feed = {
        tensor.name: np.ones(
            [sizes.get(axis, axis) for axis in tensor.shape], dtype=np.dtype(tensor.dtype)
        )
        for tensor in graph.inputs
    }
    session.run(None, feed)
    places = collections.defaultdict(set)
    for event in json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            places[event["args"]["op_name"]].add(event["args"]["provider"])
    assert places["Attention"]
    assert places["TensorScatter"]
    for operator in ON_THE_DEVICE & set(places):
        assert places[operator] == {"CUDAExecutionProvider"}, operator


def test_many_requests_take_no_more_memory(cuda, bundles):
    """What the device has free is the same after the second and the twentieth."""
    from cuda.bindings import runtime

    bundle = bundles("bart")
    backend = OnnxRuntimeBackend(bundle, device="cuda")
    free = []
    for seed in range(20):
        tokens(backend, bundle, OPTIONS["beams"], seed)
        free.append(runtime.cudaMemGetInfo()[1])
    assert free[1] - free[-1] < 2**20
