"""Reading a Hugging Face folder: whole or sharded, damaged or hostile."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from seq2edge.checkpoints.importers.huggingface import open_folder
from seq2edge.checkpoints.importers.json_file import read_json
from seq2edge.errors import CheckpointError, UnsupportedError


@pytest.fixture
def folder(tmp_path):
    """A config and two tensors."""
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    save_file({"a": torch.ones(2, 3), "b": torch.zeros(4)}, tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def sharded(tmp_path):
    """The same in two files with an index; `index(**changes)` rewrites the map."""
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": torch.ones(2, 3)}, tmp_path / "model-1.safetensors")
    save_file({"b": torch.zeros(4)}, tmp_path / "model-2.safetensors")

    def index(**changes):
        table = {"a": "model-1.safetensors", "b": "model-2.safetensors", **changes}
        table = {name: file for name, file in table.items() if file is not None}
        file = tmp_path / "model.safetensors.index.json"
        file.write_text(json.dumps({"metadata": {"total_size": 40}, "weight_map": table}))
        return tmp_path

    return index


def test_tensors_and_settings_are_read(folder):
    """Names first, each tensor when it is asked for."""
    source = open_folder(folder)
    assert source.names == {"a", "b"}
    assert torch.equal(source.read("a"), torch.ones(2, 3))
    assert source.config == {"model_type": "gpt2"}
    assert source.generation is None
    (folder / "generation_config.json").write_text('{"num_beams": 4}')
    assert open_folder(folder).generation == {"num_beams": 4}


def test_shards_are_read_through_their_index(sharded):
    """Each tensor from the file that the index names."""
    source = open_folder(sharded())
    assert source.names == {"a", "b"}
    assert torch.equal(source.read("b"), torch.zeros(4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_type_becomes_float32(folder, dtype):
    """Checkpoints are loaded as float32."""
    save_file({"a": torch.tensor([1.5, -2.0], dtype=dtype)}, folder / "model.safetensors")
    tensor = open_folder(folder).read("a")
    assert tensor.dtype == torch.float32
    assert tensor.tolist() == [1.5, -2.0]


def test_quantized_tensors_are_refused(folder):
    """Integers would be taken for weights."""
    save_file({"a": torch.ones(2, dtype=torch.int8)}, folder / "model.safetensors")
    with pytest.raises(UnsupportedError, match=r"tensor a is torch\.int8; quantized"):
        open_folder(folder).read("a")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt", "x.pkl"])
def test_pickles_are_refused_with_the_way_to_convert_them(folder, name):
    """They can run code; the message says what to do once."""
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(CheckpointError, match=rf"{name}: pickled.*convert-weights FOLDER -o NEW$"):
        open_folder(folder)


def test_a_pickle_beside_safetensors_does_no_harm(folder):
    """Many folders hold both; the pickle is not opened."""
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert open_folder(folder).names == {"a", "b"}


@pytest.mark.parametrize("size", [0, 5, 60, -3])
def test_truncated_weights_are_refused(folder, size):
    """An interrupted download, at any length."""
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a whole safetensors file"):
        open_folder(folder)


@pytest.mark.parametrize("name", ["../m.safetensors", "/etc/m.safetensors", "..", "x.bin", 5, ""])
def test_shards_lie_in_the_folder(sharded, name):
    """An index that names files elsewhere is refused before anything is opened."""
    with pytest.raises(CheckpointError, match=r"shard .* of a is not a safetensors file name"):
        open_folder(sharded(a=name))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"c": "model-1.safetensors"}, "tensor c of the index is not there"),
        ({"b": "model-1.safetensors"}, "tensor b of the index is not there"),
        ({"a": "model-3.safetensors"}, r"model-3\.safetensors: not a whole safetensors file"),
        ({"a": None, "b": None}, "no weight_map"),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(sharded, changes, message):
    """Missing files, missing tensors, nothing at all."""
    with pytest.raises(CheckpointError, match=message):
        open_folder(sharded(**changes))


def test_tensors_that_the_index_forgets_are_refused(sharded):
    """Nothing is dropped silently, not even by the checkpoint's own index."""
    folder = sharded()
    save_file({"a": torch.ones(1), "z": torch.ones(1)}, folder / "model-1.safetensors")
    with pytest.raises(CheckpointError, match="tensors in the shards but not in it: z"):
        open_folder(folder)


def test_a_folder_of_nothing_is_refused(tmp_path):
    """First the config is missed, then the weights."""
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        open_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no model\.safetensors and no .*index\.json"):
        open_folder(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b"[1]", "holds list, needs a JSON object"),
        (b"null", "holds NoneType, needs a JSON object"),
    ],
)
def test_broken_json_is_refused(tmp_path, data, message):
    """With the file's name."""
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"config\.json: {message}"):
        read_json(tmp_path / "config.json")
