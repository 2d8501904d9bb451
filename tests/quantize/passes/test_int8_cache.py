"""Keys and values in 8 bits: a quarter of the memory, and nearly the same answers."""

from __future__ import annotations

import numpy as np
import pytest
from speaking import eight_bit_caches

import seq2edge
from seq2edge.bundle import Bundle
from seq2edge.errors import OptionError
from seq2edge.quantize.pipeline import quantize_bundle
from seq2edge.quantize.recipes import Options
from seq2edge.runtime.backends.verification import verify_graphs

INT8 = Options(int8_cache=True)


@pytest.fixture(scope="module")
def made(speaking, made_once, tmp_path_factory):
    """A bundle of that name, its quantized twins with float and with 8-bit caches."""
    found = {}

    def get(name):
        if name not in found:
            source, folder = speaking(name), tmp_path_factory.mktemp(name)
            floats = quantize_bundle(source, folder / "floats", "int8-weight")
            small = made_once(eight_bit_caches, source, memory=name in ("bart", "t5"))
            found[name] = (floats, small)
        return found[name]

    return get


@pytest.mark.parametrize("name", ["bart", "t5", "llama", "gpt2"])
def test_answers_stay_close(made, name):
    """Prefill, steps and exchanged beams on the recorded program, and the result verifies."""
    floats, small = made(name)
    assert small.parity.max_relative < floats.parity.max_relative + 0.1
    equal, own = small.parity.tokens_equal, floats.parity.tokens_equal
    assert equal >= own - 2
    assert equal >= min(own, 0.75 * small.parity.tokens_compared)
    assert all(outcome.passed for _, outcome in verify_graphs(small.bundle, device="cpu"))


def test_beams_are_reordered_in_bytes(made):
    """Beam search moves rows of the caches about, which are a quarter as large."""
    models = [seq2edge.load(r.bundle.path, device="cpu", threads=1) for r in made("bart")]
    options = models[0].options.replace(num_beams=3, max_new_tokens=6, max_length=None)
    ids = [[5, 6, 7, 8], [9, 10]]
    answers = [[s[0].ids for s in model.generate_ids(ids, options)] for model in models]
    assert all(len(found) > 1 for found in answers[1])
    caches = [model.backend.start(None, 3, 64) for model in models if model.dims.encoder is None]
    assert caches == []
    memory = models[1].backend.encode(np.array([[5, 6, 7]]), np.array([3]))
    cache = models[1].backend.start(memory, 3, 64)
    held = (*cache._caches.tensors().values(), *cache._memory._own.values())
    assert {tensor.dtype for tensor in held} == {np.dtype(np.int8)}
    assert {tensor.shape[0] for tensor in held} == {3}


def test_the_manifest_tells(made):
    """The caches' type in the contract, in the record, and the release that runs it."""
    manifest = Bundle.open(made("llama")[1].bundle.path).manifest
    graph = next(graph for graph in manifest.graphs if graph.role == "decoder")
    types = {t.name.split("_")[0]: t.dtype for t in (*graph.inputs, *graph.outputs)}
    assert (types["past"], types["present"], types["logits"]) == ("int8", "int8", "float32")
    assert graph.requires == {"onnxruntime": "1.32"}
    assert (manifest.quantization.cache, manifest.quantization.memory) == ("int8", "activations")
    assert manifest.quantization.examples == 30


def test_examples_are_needed(tmp_path, exported):
    """Scales are what they showed."""
    source = exported("gpt2")[1] / "bundle"
    with pytest.raises(OptionError, match="8-bit caches need examples, they show how"):
        quantize_bundle(source, tmp_path / "x", "int8-weight", options=INT8)
    assert not (tmp_path / "x").exists()
