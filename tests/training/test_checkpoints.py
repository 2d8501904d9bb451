"""Checkpoints on disk: the state of a training, and the model it ends with."""

import pytest
import small_recipes
import torch
from safetensors.torch import load_file

from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.errors import TrainingError
from seq2edge.training.train import Machine, train


def run(recipe, folder, **options):
    """Train on the CPU without lines about steps."""
    return train(recipe, folder, machine=Machine(device="cpu"), quiet=True, **options)


def weights(folder):
    """Tensors of a trained checkpoint."""
    return load_file(folder / "model" / "model.safetensors")


def same(one, other):
    """Whether all tensors are bit-equal."""
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def _step(path):
    return torch.load(path, weights_only=True)["global_step"]


def test_a_full_disk_while_saving_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    """The error says so, no partial file stays, and the run resumes to the same weights."""
    recipe = small_recipes.spelling(tmp_path)
    save, calls = torch.save, []

    def filling(values, file):
        calls.append(values["global_step"])
        if values["global_step"] > 10:
            file.write(b"half of it")
            raise OSError(28, "No space left on device")
        save(values, file)

    monkeypatch.setattr("seq2edge.training.checkpoints.torch.save", filling)
    with pytest.raises(TrainingError, match=r"cannot be saved: .*No space left.*free some space"):
        run(recipe, tmp_path / "run")
    assert _step(tmp_path / "run" / "last.ckpt") == 10
    assert not [path for path in (tmp_path / "run").iterdir() if "partial" in path.name]
    monkeypatch.undo()
    run(small_recipes.spelling(tmp_path), tmp_path / "whole")
    run(recipe, tmp_path / "run", resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_a_damaged_checkpoint_is_named(tmp_path):
    """A truncated file is an error with its path, not a trace of the unpickler."""
    recipe = small_recipes.spelling(tmp_path, optimizer__steps=10)
    run(recipe, tmp_path / "run")
    last = tmp_path / "run" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.raises(TrainingError, match=r"last.ckpt: not a whole checkpoint"):
        run(recipe, tmp_path / "run", resume=True)


def test_half_precision_halves_the_file_and_loads(tmp_path):
    """The numbers are those of float32, rounded."""
    recipe = small_recipes.spelling(tmp_path, optimizer__steps=10)
    run(recipe, tmp_path / "whole")
    trained = run(recipe, tmp_path / "half", stored="float16")
    assert {t.dtype for t in weights(tmp_path / "half").values()} == {torch.float16}
    loaded = dict(load_checkpoint(trained.checkpoint).model.named_parameters())
    for name, tensor in weights(tmp_path / "whole").items():
        torch.testing.assert_close(loaded[name].data, tensor, atol=1e-4, rtol=1e-3)
