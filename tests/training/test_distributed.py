"""Two processes learn what one learns: the same loss at every check, the same weights."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import group_work
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from seq2edge.errors import TrainingError
from seq2edge.training import processes
from seq2edge.training.recipe import Recipe, read_recipe
from seq2edge.training.train import Machine, train
from seq2edge.training.training_module import TrainingModule

LOSS, WEIGHT = 1e-5, 1e-4  # sums in another order, after twelve steps of Adam
RECIPE = """
objective = "seq2seq"
data = { train = ["train.tsv"], validation = ["validation.tsv"] }
tokenizer = { kind = "characters", size = 30 }
check = { every = 4 }
[model]
width = 16
hidden = 32
heads = 2
encoder_layers = 1
decoder_layers = 2
max_positions = 16
dropout = 0.0
[optimizer]
steps = 12
batch_tokens = 300
warmup = 3
learning_rate = 5e-3
clip = 0.5
precision = "float32"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe and its data: words and their reverse."""
    made = tmp_path_factory.mktemp("task")
    rng = random.Random(1)
    for name, count in (("train", 200), ("validation", 41)):
        words = ["".join(rng.choices("abcdef", k=rng.randint(2, 9))) for _ in range(count)]
        rows = [f"{word}\t{word[::-1]}\n" for word in words]
        (made / f"{name}.tsv").write_text("".join(rows), encoding="utf-8")
    (made / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def one(folder: Path) -> Path:
    """The run of one process."""
    train(recipe(folder), folder / "one", machine=Machine(device="cpu"), quiet=True)
    return folder / "one"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*processes.RANK_VARIABLES, "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def recipe(folder: Path, **changes: Any) -> Recipe:
    """The recipe of all runs."""
    return read_recipe(folder / "recipe.toml", {f"optimizer.{k}": v for k, v in changes.items()})


def curve(run: Path) -> NDArray[np.float64]:
    """Validation loss of every check."""
    rows: list[dict[str, str]] = []
    for path in sorted(run.glob("log/version_*/metrics.csv")):  # one of every start
        rows += csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return np.array([float(r["validation_loss"]) for r in rows if r["validation_loss"]])


def learnt(values: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Without the keys' biases: nothing depends on them, and Adam scales up what rounding gave."""
    if name.endswith("qkv.bias"):
        return np.concatenate([np.split(values, 3)[i] for i in (0, 2)])
    return np.split(values, 2)[1] if name.endswith("key_value.bias") else values


def assert_same(run: Path, other: Path, checks: int = 3) -> None:
    """The last checks, all weights of the saved model, and a card that says the same."""
    assert len(curve(other)) == 3
    np.testing.assert_allclose(curve(run)[-checks:], curve(other)[-checks:], atol=LOSS, rtol=0)
    found, expected = (load_file(path / "model" / "model.safetensors") for path in (run, other))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(
            learnt(found[name], name), learnt(values, name), atol=WEIGHT, rtol=0, err_msg=name
        )
    cards = [json.loads((path / "model" / "training.json").read_text()) for path in (run, other)]
    assert cards[0]["parameters"] == cards[1]["parameters"]
    assert cards[0]["validation_loss"] == pytest.approx(cards[1]["validation_loss"], abs=LOSS)


def test_clipping(folder: Path, one: Path) -> None:
    """The recipe's gradients are clipped, so that equal weights prove equal norms."""
    changed = recipe(folder, clip=0.0)
    train(changed, folder / "free", machine=Machine(device="cpu"), quiet=True)
    assert np.abs(curve(folder / "free") - curve(one)).max() > 100 * LOSS


def test_half_precision(folder: Path) -> None:
    """Sharded training refuses float16, whose scaled gradients Lightning does not shard."""
    half = dataclasses.replace(recipe(folder).optimizer, precision="fp16-mixed")
    refused = dataclasses.replace(recipe(folder), optimizer=half)
    with pytest.raises(TrainingError, match=r"optimizer.precision: fsdp takes float32 or bf16"):
        train(refused, folder / "half", machine=Machine(device="cpu", strategy="fsdp"))


def test_ddp(folder: Path, one: Path) -> None:
    """Two processes that read a step in two parts each learn what one learns in one piece."""
    lines: list[str] = []
    machine = Machine(device="cpu", processes=2, strategy="ddp")
    divided = recipe(folder, accumulate=2)
    trained = train(divided, folder / "ddp", machine=machine, quiet=True, say=lines.append)
    assert trained.steps == 12
    assert trained.validation_loss == pytest.approx(curve(one)[-1], abs=LOSS)
    assert sum("million parameters" in line for line in lines) == 1
    assert_same(folder / "ddp", one)


def test_fsdp_to_one(folder: Path, one: Path) -> None:
    """A killed training of two sharded processes says so, and one process ends it as if alone."""
    run = folder / "sharded"
    arguments = {
        "recipe": recipe(folder, accumulate=2),
        "folder": run,
        "resume": False,
        "machine": Machine(device="cpu", processes=2, strategy="fsdp"),
        "stored": "float32",
        "quiet": True,
        "step": 10,
    }
    with pytest.raises(TrainingError, match=r"process 1 of 2 was ended by SIGKILL.*resume"):
        processes.launch_processes(group_work.die_in_training, arguments, processes=2, say=print)
    np.testing.assert_allclose(curve(run), curve(one)[:2], atol=LOSS, rtol=0)
    train(arguments["recipe"], run, resume=True, machine=Machine(device="cpu"), quiet=True)  # type: ignore[arg-type]
    assert_same(run, one, checks=1)


def test_one_to_fsdp(folder: Path, one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sharded processes go on from the checkpoint of one."""
    run, draw = folder / "single", TrainingModule.on_train_batch_start

    def stop(self: TrainingModule, batch: Any, batch_idx: int) -> None:
        if self.trainer.global_step == 6:
            raise TrainingError("stop here")
        draw(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(TrainingError, match="stop here"):
        patch.setattr(TrainingModule, "on_train_batch_start", stop)
        train(recipe(folder), run, machine=Machine(device="cpu"), quiet=True)
    state = torch.load(run / "last.ckpt", weights_only=True)
    assert state["global_step"] == 4
    sharded = Machine(device="cpu", processes=2, strategy="fsdp")
    train(recipe(folder), run, resume=True, machine=sharded, quiet=True)
    assert_same(run, one, checks=2)


def test_torchrun(folder: Path, one: Path) -> None:
    """The command under torchrun trains once, speaks once and saves one card."""
    options = ["--device", "cpu", "--strategy", "ddp"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["-m", "seq2edge.cli", "train", str(folder / "recipe.toml")]
    command += ["-o", str(folder / "torchrun"), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder / 'torchrun' / 'model'}\n"
    assert done.stderr.count("million parameters") == 1
    assert done.stderr.count("step 12: validation loss") == 1
    assert_same(folder / "torchrun", one)
    card = json.loads((folder / "torchrun" / "model" / "training.json").read_text())
    assert card["processes"] == 2
