"""Whole trainings: tiny, but through every part."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import small_recipes
import torch
from safetensors.torch import load_file

import seq2edge
from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.export.pipeline import export_checkpoint
from seq2edge.training import train as training
from seq2edge.training.recipe import recipe_of, without_folders
from seq2edge.training.train import Machine, train

CPU = Machine(device="cpu")


def losses(folder):
    """Training losses by step, of all parts of a run."""
    found = {}
    for path in sorted((folder / "log").glob("version_*/metrics.csv")):
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
            if row.get("loss"):
                found[int(row["step"])] = float(row["loss"])
    return found


def run(recipe, folder, **options):
    """Train on the CPU without a bar."""
    return train(recipe, folder, machine=CPU, quiet=True, **options)


def weights(folder):
    """Tensors of a trained checkpoint."""
    return load_file(folder / "model" / "model.safetensors")


def same(one, other):
    """Whether all tensors are bit-equal."""
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_from_a_recipe_to_tokens_of_the_runtime(tmp_path):
    """A model that learnt to spell is exported and spells unseen words."""
    recipe = small_recipes.spelling(
        tmp_path, optimizer__steps=400, model__dropout=0.0, check__every=100
    )
    trained = run(recipe, tmp_path / "run")
    assert trained.steps == 400
    assert trained.validation_loss < 0.3
    export_checkpoint(trained.checkpoint, tmp_path / "bundle")
    model = seq2edge.load(tmp_path / "bundle", device="cpu")
    answers = [found[0].text for found in model.generate(["fade", "bcd", "abfe"])]
    assert answers == ["F A D E", "B C D", "A B F E"]


def test_the_card_says_how_the_checkpoint_was_made(tmp_path):
    """`training.json` holds recipe, counts and lines left out, which are also said."""
    said = []
    recipe = small_recipes.spelling(tmp_path)
    with (tmp_path / "train.tsv").open("a", encoding="utf-8") as file:
        file.write(f"{'a' * 99}\tA\n")
    trained = run(recipe, tmp_path / "run", say=said.append)
    card = json.loads((trained.checkpoint / "training.json").read_text(encoding="utf-8"))
    assert recipe_of(card["recipe"]) == without_folders(recipe)
    assert card["recipe"]["data"]["train"] == ["train.tsv"]
    assert card["lines_left_out"] == {"longer than the model's positions": 1}
    assert card["parameters"] == trained.parameters
    assert any("train.tsv:301: longer than" in line for line in said)


@pytest.mark.parametrize("objective", ["causal", "denoise", "infill"])
def test_raw_text_is_learnt_and_exports(tmp_path, objective):
    """Each objective of raw text ends below its first loss and gives a bundle that answers."""
    recipe = small_recipes.sentences(tmp_path, objective, optimizer__steps=60)
    trained = run(recipe, tmp_path / "run")
    assert trained.validation_loss < 2.5  # ln 7 = 1.9 of six words and an end; ln 110 at first
    export_checkpoint(trained.checkpoint, tmp_path / "bundle")
    model = seq2edge.load(tmp_path / "bundle", device="cpu")
    assert model.generate(["one two three"])[0][0].ids


def test_a_classifier_learns_its_labels(tmp_path):
    """The bundle's `classify` gives unseen texts the right labels."""
    trained = run(small_recipes.topics(tmp_path, optimizer__steps=60), tmp_path / "run")
    export_checkpoint(trained.checkpoint, tmp_path / "bundle")
    model = seq2edge.load(tmp_path / "bundle", device="cpu")
    found = model.classify(["plum fig apple pear", "drill saw saw rasp"])
    assert [answer.label for answer in found] == ["fruit", "tool"]


def test_accumulated_parts_teach_what_one_batch_teaches(tmp_path):
    """Steps in three parts reach the validation loss of whole steps."""
    recipe = small_recipes.spelling(tmp_path, model__dropout=0.0, optimizer__steps=12)
    parts = small_recipes.spelling(
        tmp_path, model__dropout=0.0, optimizer__steps=12, optimizer__accumulate=3
    )
    one, three = run(recipe, tmp_path / "one"), run(parts, tmp_path / "three")
    assert one.steps == three.steps == 12
    # Not the weights: those that teach nothing (biases of keys) follow rounding under Adam.
    assert three.validation_loss == pytest.approx(one.validation_loss, abs=1e-4)


KILLED = """
import sys, json
from seq2edge.training.recipe import recipe_of
from seq2edge.training.train import Machine, train
recipe = recipe_of(json.load(open(sys.argv[1])))
train(recipe, sys.argv[2], machine=Machine(device="cpu"), quiet=True)
"""


def test_a_killed_training_resumes_to_the_same_weights(tmp_path):
    """SIGKILL at some moment after the second check; dropout is on."""
    recipe = small_recipes.spelling(tmp_path, optimizer__steps=160, check__every=20)
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe.to_dict()), encoding="utf-8")
    run(recipe, tmp_path / "whole")
    command = [sys.executable, "-c", KILLED, str(path), str(tmp_path / "killed")]
    last = tmp_path / "killed" / "last.ckpt"
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        seen: set[int] = set()
        while process.poll() is None and len(seen) < 2:
            time.sleep(0.005)
            if last.is_file():
                seen.add(last.stat().st_mtime_ns)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert _step(last) < 160
    assert not (tmp_path / "killed" / "model").exists()
    run(recipe, tmp_path / "killed", resume=True)  # this process knows its files alone
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    whole, killed = losses(tmp_path / "whole"), losses(tmp_path / "killed")
    assert {step: whole[step] for step in killed} == killed


def _step(path):
    return torch.load(path, weights_only=True)["global_step"]


def test_training_without_validation_keeps_the_last_step(tmp_path):
    """There is no best check then, and no loss to report."""
    recipe = small_recipes.spelling(tmp_path, data__validation=[], optimizer__steps=10)
    trained = run(recipe, tmp_path / "run")
    assert trained.validation_loss is None
    assert _step(tmp_path / "run" / "last.ckpt") == 10


def test_patience_ends_a_training_that_gains_nothing(tmp_path):
    """A learning rate near zero gains nothing: it stops long before its steps."""
    recipe = small_recipes.spelling(
        tmp_path, optimizer__steps=500, optimizer__learning_rate=1e-9, check__patience=2
    )
    assert run(recipe, tmp_path / "run").steps < 200


def test_the_saved_model_is_the_best_check(tmp_path, monkeypatch):
    """Of losses 3, 1, 2 the weights of the second check are saved."""
    scores = iter([3.0, 1.0, 2.0])
    module = training.TrainingModule

    def scored(self):
        self.log("validation_loss", torch.tensor(next(scores)))

    monkeypatch.setattr(module, "on_validation_epoch_end", scored)
    trained = run(small_recipes.spelling(tmp_path), tmp_path / "run")
    assert trained.validation_loss == 1.0
    best = torch.load(tmp_path / "run" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 20
    saved = weights(tmp_path / "run")
    assert all(torch.equal(saved[n], best["state_dict"][f"model.{n}"]) for n in saved)


def test_a_part_of_the_rows_has_all_labels(tmp_path):
    """The first rows of a sorted file are of one class."""
    trained = run(
        small_recipes.topics(tmp_path, data__rows=20, optimizer__steps=4), tmp_path / "run"
    )
    assert load_checkpoint(trained.checkpoint).labels == ("fruit", "tool")
