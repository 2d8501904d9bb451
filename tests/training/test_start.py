"""Training that starts from a checkpoint, of ours or of another family."""

import json

import pytest
import small_recipes
import tiny_models
import torch
from safetensors.torch import load_file

from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.errors import TrainingError
from seq2edge.training.train import Machine, train
from seq2edge.training.train_tokenizer import train_tokenizer

SLOW = {"optimizer__learning_rate": 1e-12, "optimizer__steps": 2, "check__every": 2}


def run(recipe, folder, **options):
    """Train on the CPU without a bar."""
    return train(recipe, folder, machine=Machine(device="cpu"), quiet=True, **options)


def foreign(name, folder):
    """A tiny checkpoint of that family with a tokenizer of words."""
    tiny_models.save(name, folder)
    tokenizer = train_tokenizer(["one two a b c A B C"], "words", 60)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A checkpoint that was pretrained on sentences."""
    folder = tmp_path_factory.mktemp("pretrained")
    return run(small_recipes.sentences(folder, "denoise"), folder / "run").checkpoint


def test_a_training_goes_on_from_the_weights_of_another(tmp_path, pretrained):
    """All of them, with the same tokenizer and sizes, whatever the recipe's own are."""
    recipe = small_recipes.sentences(
        tmp_path, "infill", start=str(pretrained), model__width=64, **SLOW
    )
    with pytest.raises(TrainingError, match="its tokenizer has no tokens for infill"):
        run(recipe, tmp_path / "refused")
    recipe = small_recipes.sentences(tmp_path, "denoise", start=str(pretrained), **SLOW)
    trained = run(recipe, tmp_path / "run")
    before, after = (load_file(p / "model.safetensors") for p in (pretrained, trained.checkpoint))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    texts = [(p / "tokenizer.json").read_bytes() for p in (pretrained, trained.checkpoint)]
    assert texts[0] == texts[1]


def test_a_classifier_takes_the_encoder_and_names_what_is_new(tmp_path, pretrained):
    """The decoder is left; the head begins at random."""
    said = []
    recipe = small_recipes.topics(tmp_path, start=str(pretrained), **SLOW)
    trained = run(recipe, tmp_path / "run", say=said.append)
    new = "classifier_dense.weight, classifier_dense.bias, classifier_out.weight"
    assert any(new in line for line in said)
    before, after = (load_file(p / "model.safetensors") for p in (pretrained, trained.checkpoint))
    shared = before.keys() & after.keys()
    assert "encoder.layers.0.attention.qkv.weight" in shared
    assert not any(name.startswith("decoder") for name in after)
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in shared)


def test_dropout_is_on_when_a_loaded_model_learns(tmp_path, pretrained):
    """A checkpoint loads for running; training must switch it over."""
    losses = []
    for rate in (0.5, 0.0):
        changes = {**SLOW, "model__dropout": rate, "start": str(pretrained)}
        recipe = small_recipes.sentences(tmp_path, "denoise", **changes)
        run(recipe, tmp_path / f"run{rate}")
        rows = (tmp_path / f"run{rate}" / "log" / "version_0" / "metrics.csv").read_text()
        losses.append([row for row in rows.splitlines()[1:] if row])
    assert losses[0] != losses[1]


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_foreign_checkpoints_are_fine_tuned_too(tmp_path, name):
    """With their own tokenizer and ids; the result is a checkpoint of ours."""
    folder = foreign(name, tmp_path / "foreign")
    recipe = small_recipes.spelling(
        tmp_path, tokenizer={"kind": "bpe"}, start=str(folder), optimizer__steps=4, check__every=2
    )
    trained = run(recipe, tmp_path / "run")
    config = json.loads((trained.checkpoint / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "seq2edge"
    assert load_checkpoint(trained.checkpoint).dims == load_checkpoint(folder).dims


@pytest.mark.parametrize(
    ("name", "objective", "message"),
    [("gpt2", "seq2seq", "has no encoder, which seq2seq needs"), ("bert", "causal", "no decoder")],
)
def test_a_checkpoint_without_what_is_needed_is_refused(tmp_path, name, objective, message):
    """Before anything is trained."""
    folder = foreign(name, tmp_path / "foreign")
    make = small_recipes.spelling if objective == "seq2seq" else small_recipes.sentences
    arguments = (tmp_path,) if objective == "seq2seq" else (tmp_path, objective)
    recipe = make(*arguments, start=str(folder), tokenizer={"kind": "bpe"})
    with pytest.raises(TrainingError, match=message):
        run(recipe, tmp_path / "run")
