"""ONNX Runtime on a CUDA device, on doubles that are strict about memory and order."""

from __future__ import annotations

import gc

import device_session
import fake_cuda
import numpy as np
import pytest
from engine_decoding import OPTIONS, decoded, reference_of

from seq2edge.bundle import Bundle
from seq2edge.errors import BackendError, CapacityError
from seq2edge.runtime.backends import onnxruntime_device
from seq2edge.runtime.backends.device_caches import IDLE_SETS
from seq2edge.runtime.backends.onnxruntime import OnnxRuntimeBackend
from seq2edge.runtime.backends.onnxruntime_device import CAPACITY_STEP

ONE = np.ones(1, dtype=np.int64)


@pytest.fixture
def on_device(exported, monkeypatch):
    """`on_device(name)` opens a tiny model on a double, which it returns too, and its bundle."""

    def open_model(name, **kind):
        bundle = Bundle.open(exported(name)[1] / "bundle")
        cuda = fake_cuda.FakeCuda(**kind)
        device_session.install(monkeypatch, cuda)
        return OnnxRuntimeBackend(bundle, device="cuda"), cuda, bundle

    return open_model


def one_step(backend, cache, token):
    """The logits after one more token in each row."""
    rows = len(cache.length)
    return backend.step(np.full((rows, 1), token), np.ones(rows, dtype=np.int64), cache).logits()


@pytest.mark.parametrize("kind", [{}, {"capturable": False}], ids=["recorded", "not recordable"])
@pytest.mark.parametrize("name", ["bart", "llama", "whisper", "bergamot", "lfm2"])
def test_decoding_gives_the_tokens_of_the_cpu(on_device, name, kind):
    """Greedy, beams and filters; rows of unequal lengths, caches of several sizes."""
    backend, _, bundle = on_device(name, **kind)
    reference = reference_of(bundle)
    for seed, lengths in enumerate([(5, 3), (4, 6, 2)]):
        for options in OPTIONS.values():
            found = decoded(backend, bundle, lengths, options, seed)
            assert found == decoded(reference, bundle, lengths, options, seed)
    assert bool(backend._on_device.steps.replays) == (not kind)


def test_steps_are_recorded_once_for_each_set_of_buffers(on_device):
    """The first is done, the second recorded, and the next cache of that size finds it."""
    backend, cuda, _ = on_device("llama")
    for _ in range(3):
        cache = backend.start(None, 2, None)
        for token in range(3, 8):
            one_step(backend, cache, token)
        del cache
    assert len(cuda.graphs) == 1
    assert backend._on_device.steps.replays == 3 * 5 - 1


@pytest.mark.parametrize("node", ["a call", fake_cuda.real.cudaMemcpyKind.cudaMemcpyHostToDevice])
def test_what_the_host_would_have_to_do_is_not_recorded(on_device, node):
    """Its memory may be gone when the recording is replayed."""
    backend, cuda, _ = on_device("llama")
    cuda.host_nodes.append(node)
    cache = backend.start(None, 1, None)
    logits = [one_step(backend, cache, token) for token in (5, 6, 7)]
    assert not cuda.graphs
    assert not backend._on_device.steps.replays
    cuda.host_nodes.clear()
    again = backend.start(None, 1, CAPACITY_STEP + 1)  # of another size
    for token, before in zip((5, 6, 7), logits, strict=True):
        np.testing.assert_array_equal(one_step(backend, again, token), before)
    assert backend._on_device.steps.replays == 2


def test_few_recordings_are_kept(on_device, monkeypatch):
    """The one that was not used for longest goes."""
    monkeypatch.setattr(onnxruntime_device, "GRAPHS", 3)
    backend, cuda, _ = on_device("llama")
    for rows in range(1, 6):
        cache = backend.start(None, rows, None)
        one_step(backend, cache, 5)
        one_step(backend, cache, 6)
    assert [graph.alive for graph in cuda.graphs] == [False, False, True, True, True]


def test_ids_and_lengths_go_in_one_copy_and_little_comes_back(on_device):
    """All logits stay where they are until somebody asks for them."""
    backend, cuda, _ = on_device("llama")
    cache = backend.start(None, 2, None)
    one_step(backend, cache, 3)
    cuda.copied.clear()
    cuda.calls.clear()
    answer = backend.step(np.full((2, 1), 4), np.ones(2, dtype=np.int64), cache)
    assert [kind for kind, _ in cuda.copied] == ["pinned to device", "device to pinned"]
    assert "cudaMemcpy" not in cuda.calls
    assert answer.logits().shape == (2, backend.vocab)
    assert cuda.calls.count("cudaMemcpy") == 1
    one_step(backend, cache, 5)
    with pytest.raises(BackendError, match="of a step that is over"):
        answer.logits()


def test_a_cache_grows_and_keeps_what_it_holds(on_device):
    """Past the first size, without a limit; with one it refuses what does not fit."""
    backend, _, bundle = on_device("llama")
    tokens = np.random.default_rng(0).integers(3, 90, (1, CAPACITY_STEP + 3))
    reference = reference_of(bundle)
    answers = []
    for each in (backend, reference):
        cache = each.start(None, 1, None)
        each.step(tokens[:, :5], ONE * 5, cache)
        for place in range(5, CAPACITY_STEP + 3):
            answer = each.step(tokens[:, place : place + 1], ONE, cache)
        answers.append(answer.logits())
    np.testing.assert_allclose(*answers, atol=1e-4)
    limited = backend.start(None, 1, 3)
    backend.step(tokens[:, :3], ONE * 3, limited)
    with pytest.raises(CapacityError, match="4 tokens do not fit the 3 that were set"):
        one_step(backend, limited, 5)


def test_memory_comes_back(on_device):
    """Of caches of many sizes some sets are kept, the rest is given back; requests cost none."""
    backend, cuda, bundle = on_device("bart")
    living = []
    for seed in range(6):
        decoded(backend, bundle, (5, 3), OPTIONS["beams"], seed)
        gc.collect()
        living.append(cuda.living("device"))
    assert living[1] == living[-1]
    sets = backend._on_device.caches
    for rows in range(1, 12):
        sets.give_back([sets.take(rows, 640)])
    assert len(sets._idle) <= IDLE_SETS + 1


def test_a_full_device_says_what_to_do(on_device):
    """Not how an engine is built."""
    backend, _, _ = on_device("llama", memory=2**22)
    with pytest.raises(
        BackendError, match=r"do not fit its memory .*; decode fewer rows or shorte"
    ):
        backend.start(None, 64, 10_000)


def test_a_set_that_comes_back_holds_nothing(on_device):
    """No number that is none may be left behind: 0 times that is no 0."""
    backend, cuda, _ = on_device("llama")
    sets = backend._on_device.caches
    first = sets.take(2, 64)
    backend._gpu.wait()
    cuda.find(first.address, first.size)[:] = 0xFF
    sets.give_back([first])
    again = sets.take(2, 64)
    backend._gpu.wait()
    assert again.address == first.address
    assert not cuda.find(again.address, again.size).any()
