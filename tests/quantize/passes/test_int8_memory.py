"""Encoder memories in 8 bits are read as the floats that they stand for."""

from __future__ import annotations

import os

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from speaking import eight_bit_caches, sentences

import seq2edge
from seq2edge.bundle import Bundle
from seq2edge.errors import OptionError
from seq2edge.quantize.calibration import Calibration
from seq2edge.quantize.onnxruntime_graphs import find_cache_channels, read_graphs
from seq2edge.quantize.passes.int8_memory import Int8Memory, cross_attentions
from seq2edge.quantize.pipeline import quantize_bundle
from seq2edge.quantize.recipes import Options

KEYS = ["cross_key_0", "cross_value_0", "cross_key_1", "cross_value_1"]


def opened(bundle, model):
    """A session of a graph whose weights lie in the bundle."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.fspath(bundle.path)
    )
    data = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


class Pair:
    """An encoder-decoder's float graphs, and the same with memories in 8 bits."""

    def __init__(self, path, source):
        self.bundle = Bundle.open(path)
        graphs = [read_graphs(self.bundle, "onnxruntime") for _ in range(2)]
        self.dims = self.bundle.manifest.dims
        encoder = opened(self.bundle, graphs[0]["encoder"])
        self.names = [output.name for output in encoder.get_outputs()]
        self.floats = dict(zip(self.names, encoder.run(None, source), strict=True))
        # A part of what is there, so that in spite of the headroom some values are cut off.
        self.channels = {
            name: np.abs(values).max(axis=(0, 2)) / 4 for name, values in self.floats.items()
        }
        for model in graphs[1].values():
            Int8Memory(self.channels)(model)
        memory = opened(self.bundle, graphs[1]["encoder"]).run(self.names, source)
        self.codes = dict(zip(self.names, memory, strict=True))
        self.scales = {
            n: c[None, :, None] * np.float32(1.5 / 127) for n, c in self.channels.items()
        }
        self.decoders = [opened(self.bundle, models["decoder"]) for models in graphs]

    def answers(self, rows, new, used=0, lengths=None):
        """Of both decoders, the second one's memories last: logits, alignment and all else."""
        rng = np.random.default_rng(rows * 10 + new)
        batch = len(self.codes[self.names[0]])
        given = {
            "input_ids": rng.integers(3, self.dims.vocab, (rows, new)),
            "new_length": np.full(rows, new),
            "cache_length": np.full(rows, used),
            "source_length": np.array(lengths or [self.codes[self.names[0]].shape[2]] * batch),
            "last_positions": np.ones(1, np.int64),
        }
        inputs = self.decoders[0].get_inputs()
        for put in inputs:
            if put.name.startswith("past_"):
                shape = (rows, put.shape[1], 16, put.shape[3])
                given[put.name] = rng.standard_normal(shape).astype(np.float32)
        given = {put.name: given[put.name] for put in inputs if put.name in given}
        read = {name: codes * self.scales[name] for name, codes in self.codes.items()}
        names = [output.name for output in self.decoders[1].get_outputs()]
        floats = [name for name in names if not name.startswith("present_cross_")]
        return (
            dict(zip(floats, self.decoders[0].run(floats, given | read), strict=True)),
            dict(zip(names, self.decoders[1].run(names, given | self.codes), strict=True)),
        )


def pair_of(speaking, rows):
    """Of so many sources of seven tokens."""
    source = np.random.default_rng(1).integers(3, 90, (rows, 7))
    path = speaking("bart", alignments=True)
    return Pair(path, {"input_ids": source, "source_length": np.full(rows, 7)})


def test_the_encoder_gives_codes_of_its_values(speaking):
    """Rounded to the nearest one, and cut at the channel's largest."""
    pair = pair_of(speaking, 3)
    assert pair.names == KEYS
    for name, codes in pair.codes.items():
        expected = np.clip(np.rint(pair.floats[name] / pair.scales[name]), -128, 127)
        assert codes.dtype == np.int8
        assert np.mean(codes != expected) < 0.001  # halves, by the last bit
        assert np.abs(codes - expected).max() <= 1
        assert codes.min() == -128
        assert codes.max() == 127


@pytest.mark.parametrize(
    ("sources", "rows", "new", "used", "lengths"),
    [
        (1, 1, 1, 5, None),
        (1, 1, 6, 0, None),
        (1, 1, 4, 5, [3]),
        (3, 3, 1, 5, None),
        (3, 3, 1, 0, [7, 1, 4]),
        (3, 3, 5, 0, [2, 7, 1]),
        (2, 6, 1, 5, [6, 3]),  # beams that share a memory
        (2, 2, 1, 3, [0, 7]),
    ],
)
def test_the_decoder_reads_them_as_floats(speaking, sources, rows, new, used, lengths):
    """As the float graph reads the numbers that the codes stand for; and gives them out again."""
    pair = pair_of(speaking, sources)
    floats, codes = pair.answers(rows, new, used, lengths)
    counts = lengths or [7] * sources
    seen = [row for row in range(rows) if counts[row * sources // rows]]
    for name in ("logits", "log_sum_exp", "present_key_1", "alignment"):
        assert np.abs(floats[name] - codes[name])[seen].max() < 2e-4, name
    assert np.isfinite(codes["logits"]).all()
    for name, memory in pair.codes.items():
        for given, kept, count in zip(memory, codes[f"present_{name}"], counts, strict=True):
            np.testing.assert_array_equal(kept[:, :count], given[:, :count])


@pytest.mark.parametrize(
    ("name", "known"), [("bart", True), ("moonshine", False), ("t5gemma", False)]
)
def test_attentions_of_other_forms_stay(exported, name, known):
    """Heads of 12 values, whose kernel takes multiples of 8; and scores that are bounded."""
    models = read_graphs(Bundle.open(exported(name)[1] / "bundle"), "onnxruntime")
    found = [str(n.inputs[1].name) for n in cross_attentions(models["decoder"].graph)]
    assert bool(found) == known


def test_models_without_such_an_attention_are_refused(tmp_path, exported):
    """Those without an encoder too; nothing is left out in silence."""
    for name in ("t5gemma", "llama", "bert"):
        with pytest.raises(OptionError, match="int8 memory: for decoders that read an encoder by"):
            quantize_bundle(
                exported(name)[1] / "bundle",
                tmp_path / name,
                "int8-weight",
                options=Options(int8_memory=True),
                calibration=sentences(1),
            )


def test_the_manifest_tells(speaking, made_once):
    """That memories have 8 bits and own caches as well, and the release that runs them."""
    report = made_once(eight_bit_caches, speaking("bart"), memory=True)
    manifest = report.bundle.manifest
    decoder = next(graph for graph in manifest.graphs if graph.role == "decoder")
    assert (manifest.quantization.cache, manifest.quantization.memory) == ("int8", "int8")
    assert decoder.requires == {"onnxruntime": "1.32"}
    present = [put for put in decoder.outputs if put.name.startswith("present_cross_")]
    assert [(put.name[8:], put.dtype) for put in present] == [(name, "int8") for name in KEYS]


def test_channels_are_those_of_the_memories(speaking):
    """The largest values that the examples gave, by head and channel."""
    bundle = Bundle.open(speaking("bart", alignments=True))
    calibration = Calibration(bundle, sentences(12), threads=1)
    channels = find_cache_channels(calibration, read_graphs(bundle, "onnxruntime"))
    model = seq2edge.load(bundle.path, device="cpu", threads=1)
    expected = 0
    for trace in calibration.traces:
        memory = model.backend.encode(np.array([trace.source]), np.array([len(trace.source)]))
        values = memory.tensors["cross_value_1"].numpy()
        expected = np.maximum(expected, np.abs(values).max(axis=(0, 2)))
    np.testing.assert_allclose(channels["cross_value_1"], expected, rtol=1e-5)
