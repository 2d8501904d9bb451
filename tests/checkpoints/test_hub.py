"""Models by their name: the files that are fetched, the errors, and the cache."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import time

import huggingface_hub
import pytest
import tiny_models
from command_line import call
from hub_server import COMMIT, TOKEN, serving
from killing import end
from sentence_folders import sentence_folder, write

from seq2edge.bundle import Bundle
from seq2edge.checkpoints.hub import Hub, find_checkpoint
from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.errors import CheckpointError, OptionError
from seq2edge.files.storage import replacing_folder


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A hub with one model, and an empty cache."""
    folder = tmp_path / "remote"
    tiny_models.save("bert-embedding", folder)
    for name in ("pytorch_model.bin", "modeling.py", "README.md", "flax_model.msgpack"):
        (folder / name).write_text("not to be fetched")
    (folder / "vocab.txt").write_text("[PAD]\n")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    with serving(folder) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


NEEDED = {"config.json", "model.safetensors", "vocab.txt"}


def test_what_an_export_needs_is_fetched_and_nothing_else(remote):
    """No pickle, no code, no other framework; once, and with the commit as its origin."""
    folder, origin = find_checkpoint("someone/tiny", Hub())
    assert set(remote.served) == NEEDED
    assert origin == f"someone/tiny@{COMMIT}"
    assert load_checkpoint(folder).family == "bert"
    find_checkpoint("someone/tiny", Hub(revision="v1"))
    assert len(remote.served) == len(NEEDED)


def test_what_a_killed_download_left_is_swept(remote, tmp_path):
    """By the next that fetches this model; what may still grow, and other models', stays."""
    left = []
    for model, hours in (("tiny", 25), ("tiny", 1), ("other", 25)):
        blobs = tmp_path / "cache" / f"models--someone--{model}" / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        left.append(blobs / f"{hours}.12345678.incomplete")
        left[-1].write_bytes(b"x")
        os.utime(left[-1], (time.time() - hours * 3600,) * 2)
    find_checkpoint("someone/tiny", Hub())
    assert [path.exists() for path in left] == [False, True, True]


def test_a_folder_whose_replacement_was_cut_is_finished(tmp_path):
    """And not looked for on the hub; its loader finishes it too."""
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)

    def replace():
        with replacing_folder(folder) as partial:
            (partial / "config.json").write_text("{")

    for opened in (lambda: find_checkpoint(folder, Hub()), lambda: load_checkpoint(folder)):
        number = 0
        while folder.exists():
            assert end(replace, kill_at=number, swap=errno.EINVAL) == "killed"
            number += 1
        with contextlib.suppress(CheckpointError):
            opened()
        assert (folder / "config.json").read_text() == "{"


def test_shards_are_fetched_by_their_index(remote):
    """Those that it names, beside it."""
    (remote.folder / "model.safetensors").unlink()
    tiny_models.make("bert-embedding").save_pretrained(remote.folder, max_shard_size="20KB")
    (remote.folder / "model-extra.safetensors").write_bytes(b"")
    folder, _ = find_checkpoint("someone/tiny", Hub())
    shards = {f for f in remote.served if f.endswith(".safetensors")}
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert shards == set(index["weight_map"].values())
    assert load_checkpoint(folder).family == "bert"


def test_modules_are_fetched_with_their_folders(remote):
    """Of sentence-transformers; a folder that no module names is not."""
    dense = [(32, 8, "Tanh", True)]
    sentence_folder(remote.folder, "Transformer", "Pooling", "Dense", dense=dense)
    write(remote.folder / "sentence_bert_config.json", {"max_seq_length": 9})
    folder, _ = find_checkpoint("someone/tiny", Hub())
    assert set(remote.served) == NEEDED | {
        "modules.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
    }
    assert load_checkpoint(folder).dims.embedding_width == 8


def test_how_images_are_made_ready_is_fetched(remote):
    """In either of the files that say it."""
    names = {"preprocessor_config.json", "processor_config.json"}
    for name in names:
        write(remote.folder / name, {"name": name})
    find_checkpoint("someone/tiny", Hub())
    assert set(remote.served) == NEEDED | names


def test_an_existing_folder_of_that_name_wins(remote, tmp_path):
    """Nothing is asked of the hub; a revision would mean nothing."""
    (tmp_path / "someone" / "tiny").mkdir(parents=True)
    folder, origin = find_checkpoint("someone/tiny", Hub())
    assert (folder.resolve(), origin) == (tmp_path / "someone" / "tiny", "tiny")
    assert remote.served == []
    with pytest.raises(OptionError, match="revision: someone/tiny is no model of a hub"):
        find_checkpoint("someone/tiny", Hub(revision="v1"))
    assert find_checkpoint("./other/one", Hub())[1] == "one"


def test_the_cache_is_enough_offline(remote):
    """After a first time; before it one line says that nothing is there."""
    with pytest.raises(CheckpointError, match=r"not in the cache, and --offline fetches nothing$"):
        find_checkpoint("someone/tiny", Hub(offline=True))
    folder, _ = find_checkpoint("someone/tiny", Hub())
    remote.served.clear()
    assert find_checkpoint("someone/tiny", Hub(offline=True))[0] == folder
    assert remote.served == []


def test_a_gated_model_needs_a_token(remote):
    """That is handed on as it is."""
    with pytest.raises(CheckpointError, match=r"^someone/gated: is gated, .*--token-file\)$"):
        find_checkpoint("someone/gated", Hub())
    folder, _ = find_checkpoint("someone/gated", Hub(token=TOKEN))
    assert (folder / "config.json").is_file()


@pytest.mark.parametrize(
    ("name", "hub", "message"),
    [
        ("some/other", Hub(), "no such folder here and no such model on the hub"),
        ("someone/tiny", Hub(revision="v9"), "has no revision 'v9' on the hub"),
        ("some/a--b", Hub(), "^some/a--b: "),
    ],
)
def test_what_is_not_there_is_one_line(remote, name, hub, message):
    """With the name that was asked for."""
    with pytest.raises(CheckpointError, match=message) as caught:
        find_checkpoint(name, hub)
    assert "\n" not in str(caught.value)
    assert remote.served == []


def test_weights_that_are_only_pickled_are_not_fetched(remote):
    """The way out is told instead."""
    (remote.folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"only pytorch_model\.bin.*convert-weights"):
        find_checkpoint("someone/tiny", Hub())
    assert "pytorch_model.bin" not in remote.served


def test_the_command_line_exports_by_name(remote, tmp_path):
    """With a token from a file; the bundle records the model and the commit."""
    (remote.folder / "vocab.txt").unlink()
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    asked = ("--token-file", tmp_path / "token", "--revision", "v1")
    result = call("export", "someone/gated", "-o", tmp_path / "bundle", *asked)
    assert result.exit_code == 0, result.output
    provenance = Bundle.open(tmp_path / "bundle").manifest.provenance
    assert provenance.source == f"someone/gated@{COMMIT}"
    result = call("export", "someone/other", "-o", tmp_path / "other")
    assert result.exit_code == 1
    assert "someone/other: no such folder here and no such model" in result.stderr


def test_a_repository_that_is_no_checkpoint_is_told(remote):
    """One without a config: other formats, data."""
    (remote.folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"^someone/tiny: has no config\.json on the hub"):
        find_checkpoint("someone/tiny", Hub())


def test_without_a_network_one_line_says_so(remote, monkeypatch):
    """Nobody answers at that address, which the library tries again and again."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="the hub cannot be reached") as caught:
        find_checkpoint("someone/tiny", Hub())
    assert "\n" not in str(caught.value)


def test_without_the_library_the_extra_is_named(remote, monkeypatch):
    """It comes with the packages of an export."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"install seq2edge\[export\]"):
        find_checkpoint("someone/tiny", Hub())
