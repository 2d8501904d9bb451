"""Differentially private training: gradients of rows, clipping, noise, drawing, and the account."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from opacus.accountants import create_accountant
from opacus.optimizers import DPOptimizer
from safetensors.torch import load_file
from small_trainings import MODEL, lines, small_recipe, write_pairs

from seq2edge.cli import main
from seq2edge.errors import CheckpointError, TrainingError
from seq2edge.export.pipeline import export_checkpoint
from seq2edge.model.dims import Dims, StackDims
from seq2edge.training.adapters import add_adapters
from seq2edge.training.batches import IGNORED
from seq2edge.training.initialise import new_model
from seq2edge.training.privacy import (
    Mechanism,
    PrivateModule,
    prepare_privacy,
    spent_epsilon,
)
from seq2edge.training.recipe import AdapterRecipe, Recipe
from seq2edge.training.run_folder import prepare_run
from seq2edge.training.train import Machine, _data_module, train

MECHANISM = Mechanism(secret=5, rate=0.25, noise=1.0)
STACK = StackDims(
    layers=2, heads=4, kv_heads=4, head_dim=4, hidden=24, activation="gelu", max_positions=16
)
RELATIVE = dataclasses.replace(
    STACK, kv_heads=2, norm="rms", gated=True, qk_norm=True, positions="relative",
    max_positions=0, relative_buckets=8, relative_distance=16,
)  # fmt: skip
ROTARY = dataclasses.replace(STACK, positions="rotary", max_positions=0, rotary_theta=1e4)
CLASSIFIER = {"head": "classifier", "labels": 3, "classifier_activation": "tanh", "pooling": "mean"}
MODELS = {
    "tied": Dims(width=16, vocab=20, encoder=STACK, decoder=STACK),
    "untied": Dims(width=16, vocab=20, encoder=STACK, decoder=STACK, tied=False, source_vocab=20),
    "relative": Dims(width=16, vocab=20, encoder=RELATIVE, decoder=RELATIVE),
    "causal": Dims(width=16, vocab=20, decoder=ROTARY),
    "classifier": Dims(width=16, vocab=20, encoder=STACK, **CLASSIFIER),
}


def private(folder: Path, **changes: Any) -> Recipe:
    """Private training on bytes."""
    values: dict[str, Any] = {
        "tokenizer": {"kind": "bytes", "size": 300},
        "privacy": {"epsilon": 5.0, "delta": 1e-3, "batch": 10},
        "model": {**MODEL, "max_positions": 64},
    }
    for name, change in changes.items():
        values[name] = {**values.get(name, {}), **change} if isinstance(change, dict) else change
    return small_recipe(folder, **values)


def raw_text(folder: Path) -> dict[str, Any]:
    """Changes of a recipe to a model with a decoder alone, which exports in half the time."""
    file = write_pairs(folder / "lines.tsv", [(text,) for text, _ in lines()])
    return {"objective": "causal", "data": {"train": [file]}}


def module_of(name: str, folder: Path) -> PrivateModule:
    """A private module of one of the models."""
    return PrivateModule(new_model(MODELS[name], 0), private(folder), MECHANISM)


def rows_of(dims: Dims, rows: int = 4) -> dict[str, torch.Tensor]:
    """A batch of rows of different lengths."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(4, 20, (rows, 7), generator=draw)
    labels[1, 4:] = IGNORED
    batch = {"tokens": torch.randint(4, 20, (rows, 7), generator=draw), "labels": labels}
    if dims.encoder is not None:
        batch["source"] = torch.randint(4, 20, (rows, 9), generator=draw)
        batch["source_length"] = torch.arange(rows) * 2 + 3
    if dims.head == "classifier":
        del batch["tokens"]
        batch["labels"] = torch.arange(rows) % 3
    return batch


@pytest.mark.parametrize("name", MODELS)
def test_each_rows_gradient_is_what_the_row_alone_gives(name: str, tmp_path: Path) -> None:
    """Through tables used twice, biases of positions, and padding."""
    module = module_of(name, tmp_path)
    batch = rows_of(MODELS[name])
    module.set_gradients(batch)
    for row in range(4):
        module.model.zero_grad()
        alone = {key: value[row : row + 1] for key, value in batch.items()}
        loss = module.loss({**alone, "scale": torch.ones(())}, 0.0).mean()
        loss.backward()
        for parameter_name, parameter in module.model.named_parameters():
            if parameter.requires_grad:
                torch.testing.assert_close(
                    parameter.grad_sample[row],
                    torch.zeros_like(parameter) if parameter.grad is None else parameter.grad,
                    rtol=1e-4, atol=2e-6, msg=parameter_name,
                )  # fmt: skip


def test_adapters_have_gradients_of_rows_too(tmp_path: Path) -> None:
    """Only what learns is clipped and noised."""
    module = module_of("tied", tmp_path)
    layers = add_adapters(module.model, AdapterRecipe(rank=2), (), seed=0)
    module.set_gradients(rows_of(MODELS["tied"]))
    found = [p for p in module.parameters() if getattr(p, "grad_sample", None) is not None]
    assert len(found) == 2 * len(layers)


def clipped(module: PrivateModule, batch: dict[str, torch.Tensor], clip: float) -> torch.Tensor:
    """The sum of the rows' clipped gradients, (parameters,)."""
    learning = [p for p in module.parameters() if p.requires_grad]
    optimizer = DPOptimizer(
        torch.optim.SGD(learning, lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=clip,
        expected_batch_size=1,
    )
    module.set_gradients(batch)
    optimizer.clip_and_accumulate()
    return torch.cat([p.summed_grad.flatten() for p in learning])


def test_one_row_more_changes_the_sum_by_no_more_than_the_clip(tmp_path: Path) -> None:
    """Which is what the noise is measured by; without a bound it would change by more."""
    module, batch = module_of("tied", tmp_path), rows_of(MODELS["tied"])
    fewer = {key: value[:-1] for key, value in batch.items()}
    for clip, bound in ((0.01, True), (1e9, False)):
        change = clipped(module, batch, clip) - clipped(module, fewer, clip)
        assert (change.norm().item() <= 0.01 * 1.001) == bound


def test_every_row_is_drawn_on_its_own_and_again_after_a_resume(tmp_path: Path) -> None:
    """Rates of rows and of pairs are those of independent draws; the secret decides, no seed."""
    recipe = private(tmp_path)
    run = prepare_run(recipe, tmp_path / "run", lambda _: None)

    def drawn(secret: int, first: int, count: int, seed: int = 0) -> np.ndarray:
        changed = dataclasses.replace(run, recipe=dataclasses.replace(recipe, seed=seed))
        mechanism = dataclasses.replace(MECHANISM, secret=secret)
        plan = _data_module(changed, mechanism, Machine()).plan
        steps, out = plan.steps(first), np.zeros((count, len(run.train)), bool)
        for place in range(count):
            step, rows = next(steps)
            assert step == first + place
            out[place, rows] = True
        return out

    found = drawn(1, 0, 2000)
    assert abs(found.mean() - 0.25) < 0.005
    assert np.abs(found.mean(axis=0) - 0.25).max() < 0.05
    together = (found.T.astype(float) @ found) / 2000
    np.fill_diagonal(together, 0.0625)
    assert np.abs(together - 0.0625).max() < 0.03
    np.testing.assert_array_equal(drawn(1, 7, 5), found[7:12])
    np.testing.assert_array_equal(drawn(1, 0, 5, seed=9), found[:5])
    assert (drawn(2, 0, 5) != found[:5]).any()


def test_the_account_is_opacus_own_step_by_step() -> None:
    """Our record of equal steps is the sum of them, rounded up, and grows."""
    accountant = create_accountant("rdp")
    for _ in range(20):
        accountant.step(noise_multiplier=1.1, sample_rate=0.02)
    theirs = accountant.get_epsilon(delta=1e-5)
    ours = spent_epsilon([(1.1, 0.02, 20)], 1e-5)
    assert theirs <= ours <= theirs + 1e-3
    assert spent_epsilon([(1.1, 0.02, 21)], 1e-5) > ours
    assert spent_epsilon([], 1e-5) == 0.0


def test_all_steps_spend_the_epsilon_asked_for_and_no_more(tmp_path: Path) -> None:
    """The checkpoint says so, without counts of the data or the secret."""
    trained = train(private(tmp_path), tmp_path / "run", quiet=True)
    text = (trained.checkpoint / "training.json").read_text()
    card = json.loads(text)
    spent = card["privacy"]
    assert 0.99 * 5.0 < spent["epsilon"] <= 5.0
    assert (spent["steps"], spent["sampling_rate"], spent["clip"]) == (10, 0.25, 1.0)
    assert not {"tokens", "lines_left_out"} & set(card)
    secret = str(json.loads((tmp_path / "run" / "privacy.json").read_text())["secret"])
    for file in trained.checkpoint.iterdir():
        assert secret.encode() not in file.read_bytes()


@pytest.mark.parametrize("parts", [1, 3])
def test_a_stopped_training_goes_on_with_rows_noise_and_account(tmp_path: Path, parts: int) -> None:
    """Five steps and five more are the ten of one run: the same weights, everything counted."""
    recipe = private(
        tmp_path, optimizer={"accumulate": parts, "schedule": "constant"}, model={"dropout": 0.1}
    )
    prepare_privacy(prepare_run(recipe, tmp_path / "whole", lambda _: None))
    half = dataclasses.replace(recipe, optimizer=dataclasses.replace(recipe.optimizer, steps=5))
    prepare_run(half, tmp_path / "parts", lambda _: None)
    mechanism = (tmp_path / "whole" / "privacy.json").read_text()
    (tmp_path / "parts" / "privacy.json").write_text(mechanism)
    train(half, tmp_path / "parts", quiet=True)
    asked = json.loads((tmp_path / "whole" / "recipe.json").read_text())
    (tmp_path / "parts" / "recipe.json").write_text(json.dumps(asked))
    trained = train(recipe, tmp_path / "parts", resume=True, quiet=True)
    whole = train(recipe, tmp_path / "whole", quiet=True)
    for name, value in load_file(whole.checkpoint / "model.safetensors").items():
        assert torch.equal(load_file(trained.checkpoint / "model.safetensors")[name], value), name
    cards = [json.loads((t.checkpoint / "training.json").read_text()) for t in (trained, whole)]
    assert cards[0]["privacy"] == cards[1]["privacy"]
    assert cards[0]["privacy"]["steps"] == 10


def test_parts_of_a_step_give_what_the_step_gives(tmp_path: Path) -> None:
    """They save memory, and change nothing but the rounding."""
    found = []
    for parts in (1, 4):
        recipe = private(tmp_path, optimizer={"accumulate": parts})
        run = tmp_path / str(parts)
        prepare_run(recipe, run, lambda _: None)
        (run / "privacy.json").write_text(json.dumps(dataclasses.asdict(MECHANISM)))
        found.append(load_file(train(recipe, run, quiet=True).checkpoint / "model.safetensors"))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-4, msg=name)


def gradients(
    folder: Path, monkeypatch: pytest.MonkeyPatch, mechanism: dict[str, Any], **changes: Any
) -> list[torch.Tensor]:
    """What the plain optimizer is given at each of three steps, (parameters,)."""
    recipe = private(folder, optimizer={"steps": 3}, **changes)
    prepare_run(recipe, folder / "run", lambda _: None)
    (folder / "run" / "privacy.json").write_text(json.dumps(mechanism))
    found, step = [], torch.optim.AdamW.step

    def record(self: Any, *arguments: Any, **named: Any) -> Any:
        parameters = [p for group in self.param_groups for p in group["params"]]
        found.append(torch.cat([p.grad.flatten() for p in parameters]))
        return step(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", record)
    train(recipe, folder / "run", quiet=True)
    return found


def test_a_step_without_rows_is_new_noise_of_the_right_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its silence would tell that nobody was drawn, and noise seen twice could be taken away."""
    found = gradients(
        tmp_path, monkeypatch, {"secret": 1, "rate": 0.0, "noise": 2.0},
        privacy={"clip": 0.5, "batch": 10},
    )  # fmt: skip
    for gradient in found:
        assert gradient.std().item() == pytest.approx(2.0 * 0.5 / 10, rel=0.03)
        assert (gradient != 0).all()
    together = torch.corrcoef(torch.stack(found))
    assert (together - torch.eye(3)).abs().max() < 0.05


def test_with_little_noise_a_step_is_the_sum_of_clipped_rows_over_the_expected_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All forty rows drawn: no more than forty clips over ten."""
    found = gradients(
        tmp_path, monkeypatch, {"secret": 1, "rate": 1.0, "noise": 1e-3},
        privacy={"clip": 1e-3, "batch": 10},
    )  # fmt: skip
    assert 0.5 * 40 * 1e-4 < found[0].norm().item() <= 40 * 1e-4 * 1.01


def test_a_checkpoint_without_an_account_is_not_resumed(tmp_path: Path) -> None:
    """What was spent would start anew."""
    train(private(tmp_path), tmp_path / "run", quiet=True)
    last = tmp_path / "run" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    del state["privacy"]
    torch.save(state, last)
    with pytest.raises(TrainingError, match="does not say what was spent, start a new run"):
        train(private(tmp_path), tmp_path / "run", resume=True, quiet=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"privacy": {"epsilon": 0.0}}, r"privacy\.epsilon: 0\.0, must be above 0, the other"),
        ({"privacy": {"epsilon": -1.0}}, r"privacy\.epsilon: -1\.0, must be above 0"),
        ({"privacy": {"delta": 1.0}}, r"privacy\.delta: 1\.0, must be between 0 and 1"),
        ({"privacy": {"clip": 0.0}}, r"privacy\.clip: 0\.0, must be above 0"),
        ({"privacy": {"batch": 0}}, r"privacy\.batch: 0, must be 1 or more"),
        ({"data": {"weights": [2.0]}}, r"data\.weights: a private training reads all rows"),
        ({"optimizer": {"precision": "bf16-mixed"}}, r"precision: a private training computes in"),
        ({"tokenizer": {"kind": "bpe"}}, r"tokenizer\.kind: 'bpe' is learnt from the private"),
        ({"tokenizer": {"target": "words"}}, r"tokenizer\.kind: 'words' is learnt"),
    ],
)
def test_what_would_not_be_private_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """By name, before anything is read."""
    with pytest.raises(TrainingError, match=message):
        private(tmp_path, **changes)


@pytest.mark.parametrize(
    ("privacy", "message"),
    [
        ({"batch": 41}, r"privacy\.batch: 41 rows a step, the files hold 40"),
        ({"delta": 0.025}, r"privacy\.delta: 0\.025 allows a row to be given away.*below 1 / 40"),
        ({"epsilon": 1e-9, "delta": 1e-12}, r"privacy\.epsilon: 1e-09 cannot be met in 10 steps"),
    ],
)
def test_budgets_that_do_not_go_with_the_rows_are_refused(
    tmp_path: Path, privacy: dict[str, Any], message: str
) -> None:
    """Before the first step."""
    with pytest.raises(TrainingError, match=message):
        train(private(tmp_path, privacy=privacy), tmp_path / "run", quiet=True)


def test_several_processes_are_refused(tmp_path: Path) -> None:
    """Each would draw rows of its own."""
    with pytest.raises(TrainingError, match="runs in one process"):
        train(private(tmp_path), tmp_path / "run", machine=Machine(processes=2), quiet=True)


def test_a_bundle_says_what_its_training_spent(tmp_path: Path) -> None:
    """From `training.json` over the manifest to `inspect`; a broken record stops the export."""
    trained = train(private(tmp_path, **raw_text(tmp_path)), tmp_path / "run", quiet=True)
    card = trained.checkpoint / "training.json"
    spent = json.loads(card.read_text())["privacy"]
    report = export_checkpoint(trained.checkpoint, tmp_path / "bundle")
    assert dataclasses.asdict(report.bundle.manifest.provenance.privacy) == spent
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "bundle")])
    line = (
        f"privacy     epsilon {spent['epsilon']:g} at delta 0.001 for each training row (10 steps"
    )
    assert line in shown.stdout
    card.write_text(json.dumps({"privacy": {"epsilon": 1.0}}))
    with pytest.raises(CheckpointError, match=r"training\.json: privacy\.delta: missing"):
        export_checkpoint(trained.checkpoint, tmp_path / "again")


def test_a_bundle_of_an_ordinary_training_says_nothing_of_it(tmp_path: Path) -> None:
    """No record, no line."""
    trained = train(small_recipe(tmp_path, **raw_text(tmp_path)), tmp_path / "run", quiet=True)
    report = export_checkpoint(trained.checkpoint, tmp_path / "bundle")
    assert report.bundle.manifest.provenance.privacy is None
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "bundle")])
    assert "privacy" not in shown.stdout
