"""Pickled weights become safetensors, and hostile ones an error: nothing in them is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import traceback
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_models
import torch
import transformers
from command_line import call
from limited import limited
from safetensors.torch import load_file
from sentence_folders import sentence_folder

from seq2edge.checkpoints import unpickle
from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.checkpoints.pickled import convert_weights
from seq2edge.errors import CheckpointError


def pickled(folder, name, file="pytorch_model.bin", **changes):
    """The tiny model as releases before 4.30 saved it: all names, tied ones too."""
    model = tiny_models.save(name, folder, **changes)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / file)
    return model


@pytest.fixture
def here(monkeypatch):
    """The reader runs in this process: another takes seconds to import PyTorch."""

    def run(command, **_):
        *_, source, destination, mode = command
        try:
            said = unpickle.main(Path(source), Path(destination), tied=mode == "tied")
        except (EOFError, OSError, RuntimeError, ValueError):
            return SimpleNamespace(stdout="", stderr=traceback.format_exc(), returncode=1)
        return SimpleNamespace(stdout=json.dumps(said), stderr="", returncode=0)

    monkeypatch.setattr(subprocess, "run", run)


def same(left, right):
    """Whether two loaded checkpoints have the same parameters."""
    theirs = right.model.state_dict()
    return left.dims == right.dims and all(
        torch.equal(value, theirs[key]) for key, value in left.model.state_dict().items()
    )


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "once"),
    [
        ("t5", {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"}),
        ("bart", {"lm_head.weight"}),
        ("whisper", {"proj_out.weight"}),
        ("gpt2", {"lm_head.weight"}),
        ("llama-biases-tied", {"lm_head.weight"}),
        ("marian-split", {"lm_head.weight"}),
        ("llama", set()),
    ],
)
def test_the_model_is_the_same(tmp_path, name, once):
    """Tied tensors are written once; untied heads stay."""
    pickled(tmp_path / "old", name)
    made = convert_weights(tmp_path / "old", tmp_path / "new")
    tiny_models.save(name, tmp_path / "wanted")
    assert same(load_checkpoint(made.path), load_checkpoint(tmp_path / "wanted"))
    assert once <= set(made.second_names)
    assert bool(once) == bool(made.second_names)
    assert made.tensors == len(load_file(made.path / "model.safetensors"))


@pytest.mark.usefixtures("here")
def test_what_the_config_calls_untied_is_written_twice(tmp_path):
    """Though one memory holds both: the head would be missed."""
    model = pickled(tmp_path / "old", "qwen2")
    state = model.state_dict()
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    torch.save(state, tmp_path / "old" / "pytorch_model.bin")
    made = convert_weights(tmp_path / "old", tmp_path / "new")
    assert dict(made.second_names) == {}
    assert not load_checkpoint(made.path).dims.tied


@pytest.mark.usefixtures("here")
def test_every_tensor_is_kept(tmp_path):
    """Heads that no task of ours needs, numbers that are no weights, half precision."""
    torch.manual_seed(0)
    config = transformers.BertConfig(**tiny_models.BERT_SIZES)
    model = transformers.BertForMaskedLM(config).half()
    model.save_pretrained(tmp_path / "old")
    (tmp_path / "old" / "model.safetensors").unlink()
    state = {**model.state_dict(), "bert.embeddings.position_ids": torch.arange(66)[None]}
    torch.save(state, tmp_path / "old" / "weights.pt")
    for name in ("optimizer.pt", "training_args.bin"):
        (tmp_path / "old" / name).write_bytes(b"a trainer's own")
    (tmp_path / "old" / "vocab.txt").write_text("[PAD]\n")
    made = convert_weights(tmp_path / "old", tmp_path / "new")
    found = load_file(made.path / "model.safetensors")
    assert set(found) | set(made.second_names) == set(state)
    assert all(torch.equal(found[name], state[name]) for name in found)
    assert all(torch.equal(found[to], state[name]) for name, to in made.second_names.items())
    files = {path.name for path in made.path.iterdir()}
    assert files == {"config.json", "model.safetensors", "vocab.txt"}
    assert load_checkpoint(made.path, task="embed").family == "bert"


@pytest.mark.usefixtures("here")
def test_shards_stay_shards(tmp_path):
    """With an index of safetensors."""
    model = pickled(tmp_path / "old", "llama")
    state = model.state_dict()
    parts = [dict(list(state.items())[:9]), dict(list(state.items())[9:])]
    table = {}
    for number, part in enumerate(parts):
        file = f"pytorch_model-{number}.bin"
        torch.save(part, tmp_path / "old" / file)
        table |= dict.fromkeys(part, file)
    (tmp_path / "old" / "pytorch_model.bin").unlink()
    index = tmp_path / "old" / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    made = convert_weights(tmp_path / "old", tmp_path / "new")
    tiny_models.save("llama", tmp_path / "wanted")
    assert same(load_checkpoint(made.path), load_checkpoint(tmp_path / "wanted"))
    assert not (made.path / index.name).exists()
    (tmp_path / "old" / "pytorch_model-1.bin").unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model-1\.bin: no such file"):
        convert_weights(tmp_path / "old", tmp_path / "other")
    index.write_text(json.dumps({"weight_map": {"a": "../x.bin"}}))
    with pytest.raises(CheckpointError, match="no weight_map of files beside it"):
        convert_weights(tmp_path / "old", tmp_path / "other")


@pytest.mark.usefixtures("here")
def test_modules_are_converted_with_their_model(tmp_path):
    """A Dense of sentence-transformers has weights of its own."""
    tiny_models.save("bert-embedding", tmp_path / "old")
    dense = [(32, 8, "Tanh", True)]
    sentence_folder(tmp_path / "old", "Transformer", "Pooling", "Dense", dense=dense)
    shutil.copytree(tmp_path / "old", tmp_path / "wanted")
    weights = tmp_path / "old" / "2_Dense" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    made = convert_weights(tmp_path / "old", tmp_path / "new")
    assert same(load_checkpoint(made.path), load_checkpoint(tmp_path / "wanted"))
    assert made.tensors == 2


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def bare(value, file):
    """A pickle as Python writes it, without PyTorch's container."""
    file.write_bytes(pickle.dumps(value))


@pytest.mark.parametrize("save", [torch.save, bare])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, save):
    """In PyTorch's own container, or bare; one line on the command line and no folder."""
    pickled(tmp_path / "old", "gpt2")
    state = {"wte.weight": torch.ones(2), "x": Hostile(tmp_path / "ran")}
    save(state, tmp_path / "old" / "pytorch_model.bin")
    result = call("convert-weights", tmp_path / "old", "-o", tmp_path / "new")
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "pytorch_model.bin: " in result.stderr
    assert "nothing of it was run" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"state_dict": {"a": torch.ones(2)}, "epoch": 3}, "'state_dict' is dict, not a tensor"),
        ([torch.ones(2)], "holds list, needs tensors by their names"),
        ({}, "holds dict, needs tensors"),
        ({1: torch.ones(2)}, "no plain state dict: 1 is Tensor"),
        (b"", "reading it failed: "),
        (b"not a pickle at all", r"pytorch_model\.bin: "),
    ],
)
def test_what_is_no_plain_state_dict_is_refused(tmp_path, value, message):
    """A trainer's checkpoint, a list, a damaged file."""
    pickled(tmp_path / "old", "gpt2")
    file = tmp_path / "old" / "pytorch_model.bin"
    if isinstance(value, bytes):
        file.write_bytes(value)
    else:
        torch.save(value, file)
    with pytest.raises(CheckpointError, match=message) as caught:
        convert_weights(tmp_path / "old", tmp_path / "new")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("here")
def test_where_there_is_nothing_to_convert_it_says_so(tmp_path):
    """Safetensors already, several candidates, or a folder in the way."""
    tiny_models.save("gpt2", tmp_path / "old")
    with pytest.raises(CheckpointError, match="has no pickled weights"):
        convert_weights(tmp_path / "old", tmp_path / "new")
    (tmp_path / "old" / "model.safetensors").rename(tmp_path / "old" / "a.bin")
    (tmp_path / "old" / "b.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"holds a\.bin, b\.pt, keep the one"):
        convert_weights(tmp_path / "old", tmp_path / "new")
    with pytest.raises(CheckpointError, match="exists already"):
        convert_weights(tmp_path / "old", tmp_path / "old")


def test_the_command_line_tells_what_was_kept_once(tmp_path):
    """And the way to go on with it."""
    pickled(tmp_path / "old", "gpt2")
    result = call("convert-weights", tmp_path / "old", "-o", tmp_path / "new")
    assert result.exit_code == 0, result.output
    assert "kept once: lm_head.weight is transformer.wte.weight" in result.stderr
    assert load_checkpoint(tmp_path / "new").family == "gpt2"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("kind", ["repeated", "compressed", "sparse"])
def test_pickles_that_become_larger_are_refused(tmp_path, kind):
    """A tensor of one number read over and over, or an archive that unpacks to anything."""
    folder = tmp_path / "model"
    tiny_models.save("llama", folder)
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    tensor = torch.zeros(1).expand(2**40) if kind == "repeated" else torch.zeros(99)
    torch.save({"a": tensor.to_sparse() if kind == "sparse" else tensor}, file)
    if kind == "compressed":
        with (
            zipfile.ZipFile(file) as stored,
            zipfile.ZipFile(tmp_path / "small", "w", zipfile.ZIP_DEFLATED) as small,
        ):
            for name in stored.namelist():
                small.writestr(name, stored.read(name))
        (tmp_path / "small").rename(file)
    message = "is compressed" if kind == "compressed" else "has more values than are stored for it"
    with limited(), pytest.raises(CheckpointError, match=message):
        convert_weights(folder, tmp_path / "new")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "data", [b"", b"\x80\x02", b"\x80\x02\x8a\xff", b"PK\x03\x04" * 9, b"(" * 10**6]
)
def test_damaged_pickles_are_one_line(tmp_path, data):
    """Whatever the reader raises."""
    folder = tmp_path / "model"
    tiny_models.save("llama", folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(data)
    with limited(), pytest.raises(CheckpointError, match=r"pytorch_model\.bin: ") as refusal:
        convert_weights(folder, tmp_path / "new")
    assert str(refusal.value).isprintable()


def test_a_pipe_is_no_pickle(tmp_path):
    """It would be read for ever."""
    folder = tmp_path / "model"
    tiny_models.save("llama", folder)
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "weights.bin")
    with limited(), pytest.raises(CheckpointError, match=r"weights\.bin: not a regular file"):
        convert_weights(folder, tmp_path / "new")
