"""Alignments are the cross-attention weights that transformers gives, on every kind of graphs."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch

import seq2edge
from seq2edge.bundle import Bundle
from seq2edge.bundle.reference import REFERENCE, read_reference
from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.errors import ExportError, OptionError
from seq2edge.export.eager import EagerBackend
from seq2edge.export.graphs import alignment_heads
from seq2edge.export.pipeline import ExportReport, export_checkpoint
from seq2edge.model.dims import Dims, StackDims
from seq2edge.quantize.pipeline import quantize_bundle
from seq2edge.runtime import parity
from seq2edge.runtime.backends.onnxruntime import OnnxRuntimeBackend
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.parity import TOLERANCES
from seq2edge.runtime.request import Request
from seq2edge.runtime.scheduler import decode
from seq2edge.testing import ContractError, check_backend, examples_of

SOURCES = [[5, 6, 7, 8, 9, 10, 2], [11, 12, 2], [13, 14, 15, 16, 2]]
HEADS = ((0, 1), (1, 2), (1, 3))  # some of a tiny Whisper's
TOLERANCE = 1e-4
WAYS = {
    "greedy": {},
    "beams": {"num_beams": 3, "num_return_sequences": 3},
    "drawn": {"do_sample": True, "seed": 3, "num_return_sequences": 2},
    "guessed": {"prompt_lookup_num_tokens": 3},
}


def expected(reference, source, start, ids, heads=None, *, by_head=False):
    """The weights of transformers for these tokens: of all heads of the first of two layers."""
    reference = copy.deepcopy(reference)
    reference.set_attn_implementation("eager")
    key = "input_features" if source.dtype == torch.float32 else "input_ids"
    fed = torch.tensor([[*start, *ids[:-1]]])
    with torch.no_grad():
        crossing = reference(
            **{key: source[None]}, decoder_input_ids=fed, output_attentions=True
        ).cross_attentions
    heads = heads or [(0, head) for head in range(crossing[0].shape[1])]
    chosen = torch.stack([crossing[layer][0, head] for layer, head in heads])
    weights = chosen.transpose(0, 1) if by_head else chosen.mean(dim=0)
    return weights[len(start) - 1 :].numpy()


def check(reference, source, start, sequence, heads=None, *, by_head=False):
    """A line an id, each a distribution, each that of transformers."""
    assert len(sequence.ids) > 1
    wanted = expected(reference, source, start, sequence.ids, heads, by_head=by_head)
    np.testing.assert_allclose(sequence.alignment, wanted, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(sequence.alignment.sum(axis=-1), 1, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["t5", "marian", "bart"])
def test_the_model_gives_what_transformers_gives(name, tmp_path):
    """Of every layout of layers: queries before and after norms, with a scale and without."""
    reference = tiny_models.save(name, tmp_path)
    loaded = load_checkpoint(tmp_path)
    backend = EagerBackend(loaded.model, alignment_heads(loaded.dims))
    start = (reference.config.decoder_start_token_id,)
    options = DecodeOptions(alignments=True, num_beams=2)
    requests = [
        Request(prompt=start, source=source, options=options, max_new_tokens=6)
        for source in SOURCES
    ]
    for source, (sequence,) in zip(SOURCES, decode(backend, requests), strict=True):
        check(reference, torch.tensor(source), start, sequence)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("graphs", ["canonical", "onnxruntime"])
def test_graphs_give_it_for_every_search(speaking, graphs, way):
    """In a batch of sources of different lengths, each its own."""
    if graphs == "canonical" and way == "guessed":
        pytest.skip("canonical graphs answer the last token alone")
    reference = tiny_models.make("bart")
    folder = speaking("bart", alignments=True)
    model = seq2edge.load(folder, device="cpu", threads=1, graphs=graphs)
    options = model.options.replace(
        alignments=True, max_new_tokens=8, min_new_tokens=4, max_length=None, **WAYS[way]
    )
    start = model.start_tokens(options)
    for source, sequences in zip(SOURCES, model.generate_ids(SOURCES, options), strict=True):
        assert len(sequences) == options.num_return_sequences
        for sequence in sequences:
            check(reference, torch.tensor(source), start, sequence)
        if way == "guessed":
            assert sequences[0].usage.guessed_tokens > 0


def speech_bundle(folder: Path) -> ExportReport:
    """Of a Whisper whose checkpoint names the heads that follow the audio."""
    tiny_models.save("whisper", folder / "checkpoint")
    file = folder / "checkpoint" / "generation_config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"alignment_heads": HEADS}))
    return export_checkpoint(folder / "checkpoint", folder / "bundle", alignments=True)


@pytest.mark.parametrize("graphs", ["canonical", "onnxruntime"])
@pytest.mark.parametrize("way", WAYS)
def test_whisper_has_each_of_its_own_heads(graphs, way, made_once):
    """Of two layers, as the checkpoint names them; an export of its own."""
    if graphs == "canonical" and way == "guessed":
        pytest.skip("canonical graphs answer the last token alone")
    report = made_once(speech_bundle)
    model = seq2edge.load(report.bundle.path, device="cpu", threads=1, graphs=graphs)
    rng = np.random.default_rng(0)
    features = rng.standard_normal((2, model.dims.mels, model.dims.frames), dtype=np.float32)
    options = model.options.replace(alignments=True, max_new_tokens=6, max_length=None, **WAYS[way])
    start, reference = model.start_tokens(options), tiny_models.make("whisper")
    for clip, sequences in zip(features, model.transcribe_ids(features, options), strict=True):
        for sequence in sequences:
            source = torch.from_numpy(clip)
            check(reference, source, start, sequence, HEADS, by_head=True)


def test_a_quantized_bundle_keeps_it_and_one_for_tensorrt_does_not(speaking, tmp_path):
    """Products of attention stay float; engines are built without."""
    source = speaking("bart", alignments=True)
    quantize_bundle(source, tmp_path / "small", "int8-weight")
    model = seq2edge.load(tmp_path / "small", device="cpu", threads=1)
    options = model.options.replace(alignments=True, max_new_tokens=4, max_length=None)
    ((sequence,),) = model.generate_ids(SOURCES[:1], options)
    np.testing.assert_allclose(sequence.alignment.sum(axis=1), 1, rtol=0, atol=TOLERANCE)
    bundle = quantize_bundle(
        source, tmp_path / "engines", "bf16", target="tensorrt", emulation=tmp_path / "twin"
    ).bundle
    assert "alignment" not in [put.name for put in bundle.graph("decoder", "tensorrt").outputs]
    with pytest.raises(OptionError, match=r"alignments: .*twin gives none on onnxruntime"):
        seq2edge.load(tmp_path / "twin", device="cpu").generate_ids(SOURCES, options)


def test_the_parity_gate_looks_at_it(speaking):
    """Graphs that attend elsewhere would not be written."""
    bundle = Bundle.open(speaking("bart", alignments=True))
    reference = read_reference(bundle.file(REFERENCE))
    backend = OnnxRuntimeBackend(bundle, threads=1)
    assert parity.replay(backend, reference).max_absolute < TOLERANCES["float32"].absolute
    reference["alignment_3"] = np.roll(reference["alignment_3"], 1, axis=1)
    assert parity.replay(backend, reference).max_absolute > 1e-3


STACK = StackDims(layers=3, heads=2, kv_heads=2, head_dim=4, hidden=8, activation="relu")


def test_the_last_layer_but_one_unless_the_checkpoint_names_heads():
    """Or the only one. Names that the decoder does not have are refused, and other kinds."""
    dims = Dims(width=8, vocab=9, encoder=STACK, decoder=STACK)
    assert alignment_heads(dims) == ((1, 0), (1, 1))
    assert alignment_heads(dims, ((2, 1),)) == ((2, 1),)
    with pytest.raises(ExportError, match="alignment_heads names head 2 of layer 0"):
        alignment_heads(dims, ((0, 2),))
    with pytest.raises(ExportError, match="alignments: a model of kind decoder has no attention"):
        alignment_heads(Dims(width=8, vocab=9, decoder=STACK))


def test_a_bundle_without_refuses_the_option_by_name(exported):
    """And says how to get them."""
    model = seq2edge.load(exported("bart")[1] / "bundle", device="cpu", threads=1)
    with pytest.raises(OptionError, match=r"alignments: .* gives none .* export .* --alignments"):
        model.generate_ids(SOURCES, model.options.replace(alignments=True))


@pytest.mark.parametrize("graphs", ["canonical", "onnxruntime"])
@pytest.mark.parametrize("name", ["bart", "whisper"])
def test_caches_keep_the_contract_with_it(speaking, made_once, graphs, name):
    """In parts, in other rows, beside others that come and go: what a row alone attends to."""
    made = speaking("bart", alignments=True) if name == "bart" else None
    bundle = Bundle.open(made) if made else made_once(speech_bundle).bundle
    backend = OnnxRuntimeBackend(bundle, target=graphs, threads=1)
    check_backend(backend, examples_of(bundle.manifest.dims))


def test_the_contract_notices_what_a_row_should_not_attend_to(speaking):
    """Such as another row's."""
    bundle = Bundle.open(speaking("bart", alignments=True))
    backend = OnnxRuntimeBackend(bundle, threads=1)
    step = backend.step

    def exchanged(tokens, new_length, cache, positions=1):
        answer = step(tokens, new_length, cache, positions)
        cache.alignment = cache.alignment[::-1]
        return answer

    backend.step = exchanged
    with pytest.raises(ContractError, match="alignment of row 0"):
        check_backend(backend, examples_of(bundle.manifest.dims))
