"""Looking inside a bundle's graphs while it decodes a user's examples."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import tiny_models
from speaking import sentences

import seq2edge
from seq2edge.bundle import Bundle
from seq2edge.errors import InputError
from seq2edge.evaluation.examples import Example, read_examples
from seq2edge.export.pipeline import export_checkpoint
from seq2edge.quantize import gptq
from seq2edge.quantize.benchmark import model_inputs
from seq2edge.quantize.calibration import Calibration
from seq2edge.quantize.passes.block_weights import QuantizedWeights
from seq2edge.quantize.passes.weight_uses import find_weight_uses
from seq2edge.quantize.recipes import RECIPES
from seq2edge.runtime.backend import all_logits


@pytest.fixture
def bundles(speaking):
    """Small bundles with a tokenizer of words, by name."""
    return lambda name: Bundle.open(speaking(name))


def inputs(bundle):
    """The names of all products' inputs, by graph."""
    names = {}
    for graph in bundle.manifest.graphs:
        if graph.target == "onnxruntime":
            uses = find_weight_uses(ir.load(bundle.file(graph.file)).graph, {tiny_models.VOCAB})
            found = [s.node.inputs[0].name for s in uses if s.kind != "table"]
            names[graph.role] = list(dict.fromkeys(found))
    return names


@pytest.mark.parametrize("name", ["bart", "t5", "llama", "bert"])
def test_every_position_of_every_example_is_seen(bundles, name):
    """Sources, prompts and what the model wrote itself; no padding among it."""
    bundle = bundles(name)
    calibration = Calibration(bundle, sentences(), threads=1)
    rows = defaultdict(int)

    def on_tensor(role, tensor, values):
        assert values.shape[0] == 1
        assert np.isfinite(values).all()
        rows[role, tensor] += values.reshape(-1, values.shape[-1]).shape[0]

    names = inputs(bundle)
    calibration.observe(names, on_tensor)
    assert set(rows) == {(role, tensor) for role, tensors in names.items() for tensor in tensors}
    for (role, _), count in rows.items():
        # A decoder that has one head on the last position reads that one alone.
        assert count in {calibration.positions[role], len(calibration.traces)}


def test_the_model_writes_the_tokens_itself(bundles):
    """What the runtime generates for the example follows its start, or its prompt."""
    for name in ("bart", "gpt2"):
        bundle = bundles(name)
        examples = sentences(10)
        calibration = Calibration(bundle, examples, threads=1)
        model = seq2edge.load(bundle.path, device="cpu", threads=1)
        ids = [model.tokenizer.encode(example.input) for example in examples]
        begin = [list(model.start_tokens(model.options))] * 10 if name == "bart" else ids
        longest = max(map(len, begin)) + 48
        options = model.options.replace(num_beams=1, max_length=longest, min_length=0)
        found = model.generate_ids(ids, options.replace(max_new_tokens=None))
        for trace, start, sequences in zip(calibration.traces, begin, found, strict=True):
            assert trace.tokens == (*start, *sequences[0].ids)


def test_what_is_seen_at_once_is_what_the_steps_see(bundles):
    """The last position's values equal those of decoding token by token."""
    bundle = bundles("bart")
    calibration = Calibration(bundle, sentences(), threads=1)
    trace = calibration.traces[0]
    model = seq2edge.load(bundle.path, device="cpu", threads=1)
    memory = model.backend.encode(np.array([trace.source]), np.array([len(trace.source)]))
    cache = model.backend.start(memory, 1, None)
    for token in trace.tokens:
        logits = all_logits(model.backend.step(np.array([[token]]), np.array([1]), cache)).copy()
    values = []
    calibration.observe({"decoder": ["logits"]}, lambda *tensor: values.append(tensor[2]))
    np.testing.assert_allclose(values[0], logits, atol=1e-5)


@pytest.mark.parametrize("name", ["bart", "gpt2"])
def test_groups_of_moments_give_what_all_at_once_do(bundles, monkeypatch, name):
    """Memory is bounded by reading the examples more often."""
    bundle = bundles(name)
    calibration = Calibration(bundle, sentences(), threads=1)
    plan = QuantizedWeights(bundle.manifest.dims, RECIPES["int4-weight"].formats)
    found = []
    for limit in (2**30, 4 * 64**2):
        monkeypatch.setattr(gptq, "MOMENT_BYTES", limit)
        models = {
            g.role: ir.load(bundle.file(g.file))
            for g in bundle.manifest.graphs
            if g.target == "onnxruntime"
        }
        uses = {role: find_weight_uses(model.graph, plan.tables) for role, model in models.items()}
        parts = []
        found.append(gptq.calibrate_weights(calibration, uses, plan, parts.append))
        assert parts == sorted(parts)
    assert found[0].keys() == found[1].keys()
    assert found[0]
    for place, codes in found[0].items():
        np.testing.assert_array_equal(codes.values, found[1][place].values)


def test_too_little_to_calibrate_on_is_refused(bundles):
    """With how much there is and how much is needed."""
    with pytest.raises(InputError, match="1 examples give the encoder 3 positions, at least 64"):
        Calibration(bundles("bart"), [Example(input="w5 w6")], threads=1)


def test_clips_go_through_the_models_own_features(exported, tmp_path):
    """Its window is checked as when it transcribes."""
    bundle = Bundle.open(exported("whisper")[1] / "bundle")
    with pytest.raises(InputError, match="only 30 s are supported"):
        Calibration(bundle, [Example(input=tmp_path / "none.wav")], threads=1)


SHIPPED = Path(__file__).resolve().parents[2] / "examples" / "g2p"


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The bundle of the shipped phoneme model: an encoder and a decoder of 48 positions each."""
    folder = tmp_path_factory.mktemp("g2p") / "bundle"
    export_checkpoint(SHIPPED / "model", folder)
    return Bundle.open(folder)


def test_every_letter_of_a_word_is_read(shipped):
    """By calibration and benchmark as by `generate`: an answer takes none of the encoder's room."""
    examples = read_examples(SHIPPED / "test.jsonl", "generate")[:20]
    calibration = Calibration(shipped, examples, threads=1)
    model = seq2edge.load(shipped.path, device="cpu", threads=1)
    ids = [model.tokenizer.encode(example.input) for example in examples]
    assert [len(row) for row in ids] == [len(example.input) + 1 for example in examples]
    assert [list(trace.source) for trace in calibration.traces] == ids
    assert calibration.positions["encoder"] == sum(map(len, ids))
    assert model_inputs(model, examples) == ids
    options = model.options.replace(num_beams=1, max_length=48, max_new_tokens=None)
    for trace, (best,) in zip(calibration.traces, model.generate_ids(ids, options), strict=True):
        assert trace.tokens[1:] == best.ids


def test_a_word_longer_than_the_encoder_is_read_as_far_as_it_goes(shipped):
    """A word that fills all positions is read whole; a letter more is not read, the end is."""
    words = ["ab" * 23 + "c", "ab" * 23 + "cd"]
    calibration = Calibration(shipped, [Example(input=word) for word in words], threads=1)
    model = seq2edge.load(shipped.path, device="cpu", threads=1)
    assert list(calibration.traces[0].source) == model.tokenizer.encode(words[0])
    assert len(calibration.traces[0].source) == 48
    assert calibration.traces[0].source == calibration.traces[1].source


def test_a_prompt_leaves_room_for_its_answer(bundles):
    """A decoder-only model's positions hold both, so that the prompt's first tokens are read."""
    bundle = bundles("gpt2")
    words = [f"w{5 + i % 90}" for i in range(70)]
    examples = [Example(input=" ".join(words[:count])) for count in (70, 15, 16)]
    calibration = Calibration(bundle, examples, threads=1)
    model = seq2edge.load(bundle.path, device="cpu", threads=1)
    assert model.dims.decoder.max_positions == 64
    for trace, prompt in zip(calibration.traces, (words[:15], words[:15], words[:15]), strict=True):
        assert list(trace.tokens[:16]) == model.tokenizer.encode(" ".join(prompt))
        assert len(trace.tokens) <= 64
    assert [len(ids) for ids in model_inputs(model, examples)] == [32, 16, 17]
