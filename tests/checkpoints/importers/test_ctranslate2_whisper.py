"""The files are written by CTranslate2 itself from tiny random models."""

from __future__ import annotations

import json
import shutil
import struct

import ctranslate2
import numpy as np
import pytest
import tiny_models
import torch
from ctranslate2.converters import transformers as ct2_loaders
from ctranslate2_folders import Tokens, convert

from seq2edge.checkpoints.importers import open_foreign
from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.errors import CheckpointError, UnsupportedError
from seq2edge.export.eager import EagerBackend


@pytest.fixture(scope="module")
def original():
    """The random model that is converted."""
    return tiny_models.make("whisper")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Its float32 conversion."""
    return convert(tmp_path_factory.mktemp("ct2") / "model")


@pytest.fixture
def copy(converted, tmp_path):
    """One that a test may damage."""
    return shutil.copytree(converted, tmp_path / "copy")


def logits(model, features, tokens):
    """What the loaded model answers after `tokens`."""
    backend = EagerBackend(model)
    memory = backend.encode(features, np.array([model.dims.frames // 2]))
    cache = backend.start(memory, 1, None)
    return backend.step(np.array([tokens]), np.array([len(tokens)]), cache)


def test_gives_the_logits_of_the_model_it_was_made_from(original, converted):
    """Every joined projection, norm and position comes back where it belongs."""
    loaded = load_checkpoint(converted)
    shape = (1, loaded.dims.mels, loaded.dims.frames)
    features = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    with torch.no_grad():
        wanted = original(
            input_features=torch.from_numpy(features), decoder_input_ids=torch.tensor([[2, 9, 4]])
        ).logits[:, -1]
    np.testing.assert_allclose(logits(loaded.model, features, [2, 9, 4]), wanted, atol=1e-4)
    assert loaded.source.source_format == "ctranslate2"
    assert not loaded.unused_tensors


@pytest.mark.parametrize(
    ("quantization", "error"),
    [
        ("int8", 0.02),
        ("int16", 1e-3),
        ("float16", 1e-3),
        ("bfloat16", 2e-2),
        ("int8_float16", 0.02),
    ],
)
def test_reads_every_precision(original, tmp_path, quantization, error):
    """Quantized weights are multiplied out again, within what the precision keeps."""
    source = open_foreign(convert(tmp_path / "model", quantization))
    weights = original.state_dict()
    assert source.names == {n for n in weights if not n.endswith("k_proj.bias")}
    for name in source.names:
        largest = weights[name].abs().max().item()
        found = source.read(name)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, weights[name], atol=error * largest, rtol=0)


def test_generation_settings_are_those_of_the_folder(converted):
    """Special ids come from the vocabulary, suppressed ones from the config."""
    generation = open_foreign(converted).generation
    assert generation["decoder_start_token_id"] == 2
    assert generation["eos_token_id"] == 1
    assert generation["no_timestamps_token_id"] == 5
    assert generation["prev_sot_token_id"] == 6
    assert generation["suppress_tokens"] == [7, 8]
    assert generation["begin_suppress_tokens"] == [9]
    assert generation["is_multilingual"] is False


def test_an_older_folder_lists_its_vocabulary_as_text(copy):
    """vocabulary.txt serves where there is no vocabulary.json."""
    tokens = json.loads((copy / "vocabulary.json").read_text())
    (copy / "vocabulary.json").unlink()
    (copy / "vocabulary.txt").write_text("\n".join(tokens) + "\n")
    assert open_foreign(copy).generation["eos_token_id"] == 1


def test_a_file_cut_anywhere_is_refused(copy):
    """No length is believed before the bytes are there."""
    data = (copy / "model.bin").read_bytes()
    for end in [*range(0, 60, 7), len(data) // 3, len(data) // 2, len(data) - 1]:
        (copy / "model.bin").write_bytes(data[:end])
        with pytest.raises(CheckpointError, match=r"model\.bin"):
            open_foreign(copy)


def test_bytes_after_the_end_are_refused(copy):
    """Nothing is read over."""
    with (copy / "model.bin").open("ab") as file:
        file.write(b"more")
    with pytest.raises(CheckpointError, match="4 bytes after the end"):
        open_foreign(copy)


def string(text):
    """A string as the format has it."""
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def header(version=6, spec="WhisperSpec", revision=3, variables=0):
    """The beginning of a file."""
    return struct.pack("<I", version) + string(spec) + struct.pack("<II", revision, variables)


def variable(name, code=0, shape=(1,), data=b"\0\0\0\0"):
    """One stored array."""
    extents = struct.pack(f"<B{len(shape)}I", len(shape), *shape)
    return string(name) + extents + struct.pack("<BI", code, len(data)) + data


ALIASES = struct.pack("<I", 0)
DAMAGED = {
    "another version": (header(version=5) + ALIASES, "binary version 6 but 5"),
    "another kind": (header(spec="TransformerSpec") + ALIASES, "TransformerSpec revision 3 is not"),
    "another revision": (header(revision=4) + ALIASES, "WhisperSpec revision 4 is not supported"),
    "an unknown type": (
        header(variables=1) + variable("x", code=9),
        "x has the unknown data type 9",
    ),
    "a wrong size": (
        header(variables=1) + variable("x", shape=(3,)),
        r"x of shape \[3\] cannot have",
    ),
    "a huge shape": (
        header(variables=1) + variable("x", shape=(2**31,) * 4),
        "cannot have 4 bytes",
    ),
    "a name twice": (header(variables=2) + variable("x") * 2, "x is stored twice"),
    "an alias of nothing": (
        header() + struct.pack("<I", 1) + string("y") + string("x"),
        "y stands for x, which is not there",
    ),
    "no end of a string": (struct.pack("<IH", 6, 3) + b"abc", "has no end"),
    "no UTF-8": (struct.pack("<IH", 6, 3) + b"\xff\xfe\0", "not UTF-8"),
    "nothing inside": (header() + ALIASES, "variables are missing: decoder/activation"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_told_by_its_fault(copy, name):
    """Each fault has its own words."""
    data, message = DAMAGED[name]
    (copy / "model.bin").write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        open_foreign(copy)


def edited(original, folder, change):
    """The same conversion with a change of the specification before it is written."""
    spec = ct2_loaders.WhisperLoader()(original, Tokens())
    change(spec)
    spec.validate()
    folder.mkdir()
    spec.save(str(folder))
    return folder


def key_bias(spec):
    """Give the keys of one layer a bias."""
    linear = spec.decoder.layer[0].self_attention.linear[0]
    bias = linear.bias.detach().numpy().copy()
    bias[40] = 1.0
    linear.bias = bias


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: setattr(s.decoder, "activation", np.dtype("int8").type(0)),
            "decoder/activation 0",
        ),
        (lambda s: setattr(s.decoder, "alibi", np.dtype("int8").type(1)), "decoder/alibi 1"),
        (key_bias, "self_attention/linear_0/bias has a bias of the keys"),
    ],
)
def test_settings_that_whisper_does_not_have_are_refused(original, tmp_path, change, message):
    """A feature is refused by name, never approximated."""
    with pytest.raises(UnsupportedError, match=message):
        open_foreign(edited(original, tmp_path / "model", change))


def test_a_variable_without_a_place_is_named(copy):
    """Nothing in the file is passed over."""
    data = (copy / "model.bin").read_bytes()
    place = len(struct.pack("<I", 6) + string("WhisperSpec")) + 4
    count = struct.unpack_from("<I", data, place)[0]
    more = (
        data[:place] + struct.pack("<I", count + 1) + variable("decoder/extra") + data[place + 4 :]
    )
    (copy / "model.bin").write_bytes(more)
    with pytest.raises(CheckpointError, match="has no place for: decoder/extra"):
        open_foreign(copy)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("vocabulary.json", '["a"]', "1 tokens for 96 embeddings"),
        ("vocabulary.json", json.dumps([f"t{i}" for i in range(96)]), r"no <\|endoftext\|>"),
        ("vocabulary.json", "{", "cannot be read"),
        ("config.json", "{", "cannot be read as JSON"),
    ],
)
def test_broken_companions_are_named(copy, file, content, message):
    """The files beside the weights are checked too."""
    (copy / file).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        open_foreign(copy)


def test_ctranslate2_itself_reads_these_files(converted):
    """What the other tests convert is what the library runs."""
    assert ctranslate2.models.Whisper(str(converted)).num_languages >= 0
