"""Checkpoints of models trained here."""

from __future__ import annotations

import json
import shutil

import pytest
import small_recipes

from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.errors import CheckpointError
from seq2edge.export.pipeline import export_checkpoint
from seq2edge.training.train import Machine, train
from seq2edge.training.train_tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint after two steps."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = small_recipes.spelling(folder, optimizer__steps=2, check__every=2)
    return train(recipe, folder / "run", machine=Machine(device="cpu"), quiet=True).checkpoint


@pytest.fixture
def checkpoint(trained, tmp_path):
    """A copy to break."""
    return shutil.copytree(trained, tmp_path / "checkpoint")


def change(checkpoint, edit):
    """Edit the config."""
    path = checkpoint / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    edit(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def test_dims_and_both_tokenizers_come_back(checkpoint, tmp_path):
    """From the folder alone."""
    loaded = load_checkpoint(checkpoint)
    assert (loaded.family, loaded.dims.width, loaded.dims.source_vocab) == ("seq2edge", 32, 10)
    bundle = export_checkpoint(checkpoint, tmp_path / "bundle").bundle
    record = bundle.manifest.tokenizer
    assert (record.source, record.target) == ("tokenizer.json", "tokenizer.target.json")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("dims"), "config.json: dims:"),
        (lambda c: c["dims"].update(width=33), "shape"),
        (lambda c: c["dims"].update(depth=1), "config.json: dims: .*depth"),
        (lambda c: c["dims"]["encoder"].update(norm="none"), "norm: 'none' is not supported"),
        (lambda c: c["dims"]["encoder"].update(layers=2), "encoder.layers.1.* is missing"),
        (lambda c: c.update(extra=1), "settings that are not supported: extra=1"),
    ],
)
def test_a_changed_config_is_refused_by_what_is_wrong(checkpoint, edit, message):
    """Nothing is guessed."""
    change(checkpoint, edit)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["tokenizer"].pop("source"), "tokenizer.source: missing"),
        (lambda c: c["tokenizer"].update(source="other.json"), "other.json"),
        (lambda c: c["tokenizer"].update(source="../tokenizer.json"), "source"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(checkpoint, tmp_path, edit, message):
    """A missing file, a path that leaves the folder."""
    change(checkpoint, edit)
    with pytest.raises(CheckpointError, match=message):
        export_checkpoint(checkpoint, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_tokenizer_with_ids_beyond_the_embedding_is_refused(checkpoint, tmp_path):
    """Both numbers are said."""
    train_tokenizer(["a b c d e f g h i j k"], "words", 50).save(str(checkpoint / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="15 tokens, the embedding has 10 rows"):
        export_checkpoint(checkpoint, tmp_path / "bundle")
