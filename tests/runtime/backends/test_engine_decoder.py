"""Tokens chosen on the device: the same as from all logits, with a few numbers read a step."""

from __future__ import annotations

import gc
import json
import shutil

import fake_engines
import numpy as np
import pytest
from engine_decoding import OPTIONS, decoded, reference_of

from seq2edge.bundle import Bundle
from seq2edge.errors import BackendError, EngineError
from seq2edge.runtime.backend import Candidates, all_logits
from seq2edge.runtime.likelihood import log_sum_exp
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.parity import TOLERANCES

CLOSE = TOLERANCES["float32"].absolute
CHOOSING = fake_engines.CHOOSING
ONE = np.ones(1, dtype=np.int64)
TOP_BYTES = 3 * 256 * -(-12 * 16 * 8 // 256)  # three parts of twelve rows, generously
VARIED = {
    **OPTIONS,
    "forced": DecodeOptions(
        eos_token_id=2, pad_token_id=1, num_beams=2, forced_bos_token_id=7, forced_eos_token_id=2
    ),
    "suppressed": DecodeOptions(
        eos_token_id=2, suppress_tokens=tuple(range(10, 40)), bad_words_ids=((50,), (60, 61))
    ),
    "likelier": DecodeOptions(eos_token_id=2, repetition_penalty=0.8),
}


@pytest.mark.parametrize(
    ("name", "form", "kind"),
    [
        ("bart", "masked", {}),
        ("bart", "lowered", {}),
        ("t5", "masked", {"rtx": True}),
        ("whisper", "masked", {"capturable": False}),
        ("llama", "masked", {}),
        ("llama", "lowered", {}),
    ],
)
def test_decoding_gives_the_tokens_of_onnxruntime(make_machine, engines, name, form, kind):
    """Greedy, beams and every kind of filter; steps recorded by us, by the library or not."""
    machine = make_machine(**kind)
    library = machine.trt.__name__
    bundle = engines(name, form=form, sizes=CHOOSING, library=library)
    backend, reference = machine.open(bundle), reference_of(bundle)
    for seed, lengths in enumerate([(5, 3), (4, 6, 2)]):
        for options in VARIED.values():
            found = decoded(backend, bundle, lengths, options, seed)
            assert found == decoded(reference, bundle, lengths, options, seed)


def rounding():
    """Outputs as half precision gives them: many equal, the candidates in another order.

    Which of equal logits are among the candidates stays as it was before, which is any of them.
    """
    seen = {}

    def spoil(name, result):
        if name == "logits":
            seen["logits"] = result = np.round(result * 2) / 2
        elif name == "log_sum_exp":
            result = log_sum_exp(seen["logits"]).astype(np.float32)
        elif name == "top_values":
            result = np.round(result * 2)[:, ::-1] / 2
        elif name == "top_ids":
            result = np.ascontiguousarray(result[:, ::-1])
        return result

    return spoil


@pytest.mark.parametrize("name", ["bart", "llama"])
def test_equal_logits_are_chosen_as_from_all(machine, engines, name):
    """Whatever the library's TopK does with them."""
    found = []
    for sizes in (fake_engines.SIZES, CHOOSING):
        bundle = engines(name, sizes=sizes)
        backend = machine.open(bundle)
        machine.trt.spoil = rounding()
        for seed in range(4):
            found += [decoded(backend, bundle, (5, 3), o, seed) for o in VARIED.values()]
        machine.trt.spoil = None
    assert found[: len(found) // 2] == found[len(found) // 2 :]


@pytest.fixture
def opened(machine, engines):
    """A backend with a large vocabulary's few numbers, and what is copied to the host."""
    bundle = engines("bart", sizes=CHOOSING)
    backend = machine.open(bundle)
    decoded(backend, bundle, (5, 3), OPTIONS["beams"])
    machine.cuda.copied.clear()

    def run(options):
        machine.cuda.copied.clear()
        decoded(backend, bundle, (5, 3), options)
        return [size for way, size in machine.cuda.copied if way == "device to pinned"]

    return run


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", ["plain", "filters"])
def test_a_step_reads_a_few_numbers(opened, beams, name):
    """One copy of one size, also where tokens are forbidden; no logits."""
    plain = DecodeOptions(eos_token_id=(), pad_token_id=1, num_beams=beams)
    forbidding = {"suppress_tokens": (7,), "no_repeat_ngram_size": 3, "repetition_penalty": 1.1}
    read = opened(plain if name == "plain" else plain.replace(**forbidding))
    assert len(read) == 12
    assert len(set(read)) == 1
    assert read[0] <= TOP_BYTES


def test_all_logits_are_read_where_an_option_needs_them(opened):
    """Tokens that are forced, in their step alone; repetitions made likelier, in every one."""
    plain = DecodeOptions(eos_token_id=(), pad_token_id=1)
    few = opened(plain)[0]
    logits = 2 * 96 * 4
    assert opened(plain.replace(forced_eos_token_id=3)) == [*[few] * 12, logits]
    assert opened(plain.replace(repetition_penalty=0.5)) == [few, logits] * 12


def test_candidates_are_the_logits_that_stay_on_the_device(machine, engines):
    """Values, ids and sum of every row; all of them when they are asked for."""
    bundle = engines("llama", sizes=CHOOSING)
    backend, reference = machine.open(bundle), reference_of(bundle)
    caches = [b.start(None, 2, None) for b in (backend, reference)]
    tokens, lengths = np.array([[5, 6, 7], [8, 9, 0]]), np.array([3, 2])
    found = backend.step(tokens, lengths, caches[0])
    wanted = all_logits(reference.step(tokens, lengths, caches[1]))
    assert isinstance(found, Candidates)
    assert found.ids.shape == found.values.shape == (2, 16)
    np.testing.assert_allclose(found.logits(), wanted, atol=CLOSE)
    np.testing.assert_array_equal(
        np.take_along_axis(found.logits(), found.ids, axis=1), found.values
    )
    assert found.values.min() >= np.sort(wanted, axis=1)[:, -16].min() - CLOSE
    np.testing.assert_allclose(found.log_sum_exp, log_sum_exp(wanted), atol=CLOSE)
    assert found.vocab == 96


def test_a_prompt_in_pieces_answers_with_all_logits(machine, engines):
    """Rows end in different pieces; the next step has candidates again."""
    bundle = engines("llama", sizes=CHOOSING)
    pairs = [(b, b.start(None, 2, None)) for b in (machine.open(bundle), reference_of(bundle))]
    tokens = np.random.default_rng(0).integers(3, 80, (2, 11))
    found = [b.step(tokens, np.array([11, 4]), cache) for b, cache in pairs]
    assert isinstance(found[0], np.ndarray)
    np.testing.assert_allclose(*map(all_logits, found), atol=CLOSE)
    found = [b.step(tokens[:, :1], np.ones(2, dtype=np.int64), cache) for b, cache in pairs]
    assert isinstance(found[0], Candidates)
    np.testing.assert_allclose(*map(all_logits, found), atol=CLOSE)


def test_logits_of_a_step_that_is_over_are_refused(machine, engines):
    """Their memory holds others by then; candidates are the caller's own."""
    backend = machine.open(engines("llama", sizes=CHOOSING))
    cache, other = backend.start(None, 1, None), backend.start(None, 1, None)
    first = backend.step(np.array([[5]]), ONE, cache)
    kept = first.values.copy(), first.logits().copy()
    backend.step(np.array([[8]]), ONE, other)
    np.testing.assert_array_equal(first.logits(), kept[1])
    backend.step(np.array([[6]]), ONE, cache)
    np.testing.assert_array_equal(first.values, kept[0])
    with pytest.raises(BackendError, match="logits: those of a step that is over; ask before"):
        first.logits()
    last = backend.step(np.array([[6]]), ONE, cache)
    cache.reorder(np.array([0, 0]))
    with pytest.raises(BackendError, match="logits: those of a step that is over"):
        last.logits()


def test_candidates_keep_their_buffers(machine, engines):
    """While they live no other cache gets the memory that all logits lie in."""
    backend = machine.open(engines("llama", sizes=CHOOSING))
    cache = backend.start(None, 1, None)
    found = backend.step(np.array([[5]]), ONE, cache)
    kept = found.logits().copy()
    del cache
    gc.collect()
    backend.step(np.array([[9]]), ONE, backend.start(None, 1, None))
    np.testing.assert_array_equal(found.logits(), kept)
    del found, backend
    gc.collect()
    assert machine.cuda.living("device") == machine.cuda.living("pinned") == 0


@pytest.mark.parametrize("name", ["top_values", "top_ids", "log_sum_exp"])
def test_a_wrong_head_is_refused(machine, engines, name):
    """The logits are right, but not what is chosen from: the gate compares both."""
    bundle = engines("bart", sizes=CHOOSING)
    machine.trt.spoil = lambda found, result: result + (found == name)
    with pytest.raises(EngineError, match="answers otherwise than the model"):
        machine.open(bundle)
    machine.trt.spoil = lambda found, result: result - 10**9 * (found == "top_ids")
    with pytest.raises(EngineError, match="answers otherwise than the model"):
        machine.open(bundle)


def test_a_head_of_another_size_is_refused(machine, engines, tmp_path):
    """The plan gives 16 a row and would write behind the 8 that the sidecar says."""
    shutil.copytree(engines("llama", sizes=CHOOSING).path, tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle", trust_engines=True)
    path = bundle.path / "engines" / "decoder.json"
    values = json.loads(path.read_text())
    values["sizes"]["top_k"] = 8
    for tensor in values["outputs"]:
        if tensor["name"].startswith("top_"):
            tensor["shape"][1] = 8
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(EngineError, match=r"sidecar is of another engine \(top_values, top_ids\)"):
        machine.open(bundle)
