"""Real engines on a real device: the tokens of ONNX Runtime, and what only a device can show."""

from __future__ import annotations

import numpy as np
import pytest
import real_engines
from engine_decoding import decoded

from seq2edge.bundle import Bundle
from seq2edge.bundle.engine_info import read_engine_info
from seq2edge.runtime.backend import Candidates
from seq2edge.runtime.backends.onnxruntime import OnnxRuntimeBackend
from seq2edge.runtime.backends.tensorrt import TensorRTBackend
from seq2edge.runtime.likelihood import log_sum_exp
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.parity import ENGINE_TOLERANCES

GENERATORS = ["bart", "t5", "whisper", "llama"]
OPTIONS = [
    DecodeOptions(eos_token_id=2, pad_token_id=1),
    DecodeOptions(eos_token_id=2, pad_token_id=1, num_beams=4, no_repeat_ngram_size=2),
]
MOST_EQUAL = 0.9  # of the tokens: products may run in TF32


@pytest.fixture(scope="module")
def built(bundles, tmp_path_factory):
    """`built(name)` puts (once) real engines into that tiny model's bundle; own cache."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name) / "engines"
            made[name] = real_engines.with_engines(bundles(name), folder)
        return made[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield get


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    """A cache folder in which no engine has passed yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def tokens(backend, bundle, options, seed):
    """The best sequences of two inputs."""
    lengths = (12, 5) if bundle.manifest.dims.encoder is None else (7, 4)
    return [ids for ids, _ in decoded(backend, bundle, lengths, options, seed)]


def share_equal(found, wanted):
    """Of the tokens that stand where the others do."""
    pairs = [
        pair
        for ours, theirs in zip(found, wanted, strict=True)
        for pair in zip(ours, theirs, strict=False)
    ]
    return sum(a == b for a, b in pairs) / len(pairs)


def test_real_plans_are_described_by_their_sidecars(built):
    """Built without a device too: in place, in both profiles, and of the release that is here."""
    trt = pytest.importorskip("tensorrt_rtx", reason="install seq2edge[rtx]")
    bundle = built("llama")
    (record,) = bundle.manifest.engines
    info = read_engine_info(bundle.file(record.sidecar))
    assert (info.library, info.release) == ("tensorrt_rtx", trt.__version__)
    assert info.cache_updates == (4, 4)
    assert info.profiles == ("prefill", "step")


@pytest.mark.gpu
@pytest.mark.parametrize("name", GENERATORS)
def test_decoding_on_the_device_gives_the_tokens_of_onnxruntime(gpu, own_cache, built, name):
    """Greedy and beams, several batches; the gate has passed before."""
    bundle = built(name)
    backend, reference = TensorRTBackend(bundle), OnnxRuntimeBackend(bundle)
    for seed in range(3):
        for options in OPTIONS:
            found = tokens(backend, bundle, options, seed)
            wanted = tokens(reference, bundle, options, seed)
            assert share_equal(found, wanted) >= MOST_EQUAL


@pytest.mark.gpu
def test_an_engine_that_was_built_here_needs_no_trust(gpu, built):
    """By the note that the build made."""
    bundle = Bundle.open(built("llama").path)
    assert not bundle.trust_engines
    assert TensorRTBackend(bundle).capacity == real_engines.SIZES.capacity


@pytest.mark.gpu
def test_an_encoder_on_the_device_gives_the_same_scores(gpu, own_cache, built):
    """Within the tolerance of engines."""
    bundle = built("bert")
    source = np.random.default_rng(0).integers(3, 90, (2, 9)), np.array([9, 4])
    found = TensorRTBackend(bundle).pool(*source)
    wanted = OnnxRuntimeBackend(bundle).pool(*source)
    allowed = ENGINE_TOLERANCES["float32"].relative * np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, atol=allowed)


@pytest.mark.gpu
def test_steps_are_recorded_on_the_device(gpu, own_cache, built):
    """With TensorRT by us; TensorRT-RTX does it on its own."""
    bundle = built("llama")
    backend = TensorRTBackend(bundle)
    if not backend._decoder.steps.recording:
        pytest.skip("this library records steps on its own")
    tokens(backend, bundle, OPTIONS[0], 0)
    assert backend._decoder.steps.replays > 0
    assert backend._decoder.steps.recording


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 3])
def test_tokens_are_chosen_on_the_device(gpu, own_cache, built, rows):
    """Candidates are the largest of the logits that stayed there, and the sum is that of all."""
    backend = TensorRTBackend(built("llama"))
    cache = backend.start(None, rows, None)
    tokens = np.random.default_rng(0).integers(3, 90, (rows, 5))
    for columns in (tokens, tokens[:, :1]):
        found = backend.step(columns, np.full(rows, columns.shape[1]), cache)
        assert isinstance(found, Candidates)
        logits = found.logits()
        largest = np.sort(logits, axis=1)[:, ::-1][:, : found.values.shape[1]]
        np.testing.assert_array_equal(np.sort(found.values, axis=1)[:, ::-1], largest)
        taken = np.take_along_axis(logits, found.ids, axis=1)
        np.testing.assert_array_equal(taken, found.values)
        np.testing.assert_allclose(found.log_sum_exp, log_sum_exp(logits), rtol=1e-5)


@pytest.mark.gpu
def test_many_requests_take_no_more_memory(gpu, own_cache, built):
    """Free memory of the device is the same after the second and the twentieth."""
    from cuda.bindings import runtime

    bundle = built("bart")
    backend = TensorRTBackend(bundle)
    free = []
    for seed in range(20):
        tokens(backend, bundle, OPTIONS[1], seed)
        free.append(runtime.cudaMemGetInfo()[1])
    assert free[1] - free[-1] < 2**20
