"""Adapters: what learns, what stays, and that merging changes no answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_trainings import lines, small_recipe, write_pairs

from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.errors import TrainingError
from seq2edge.training.adapters import add_adapters, merged
from seq2edge.training.recipe import AdapterRecipe
from seq2edge.training.train import train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained checkpoint."""
    folder = tmp_path_factory.mktemp("base")
    return train(small_recipe(folder), folder / "run", quiet=True).checkpoint


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Its tensors by name."""
    return load_file(checkpoint / "model.safetensors")


def adapted(base: Path, recipe: AdapterRecipe, new: tuple[str, ...] = ()) -> Any:
    """The checkpoint's model with adapters whose weights are random, and the layers' names."""
    model = load_checkpoint(base).model
    layers = add_adapters(model, recipe, new, seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    return model.eval(), layers


def answers(model: Any) -> torch.Tensor:
    """Logits of two rows."""
    source, length = torch.arange(2, 12).view(2, 5), torch.tensor([5, 3])
    crossing = model.project_source(model.encode(source, length))
    with torch.no_grad():
        return model.logits(model.decode(source.flip(1), crossing, length)[0])


def test_merged_weights_answer_as_the_adapted_model(base: Path) -> None:
    """The plain model with merged weights gives the same logits; others than without."""
    recipe = AdapterRecipe(rank=3, alpha=6.0)
    model, _ = adapted(base, recipe)
    plain = load_checkpoint(base).model.eval()
    before = answers(plain)
    plain.load_state_dict(merged(dict(model.named_parameters()), recipe))
    torch.testing.assert_close(answers(plain), answers(model), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(answers(plain), before, atol=0.1)


def test_every_linear_layer_has_one_and_nothing_else_learns(base: Path) -> None:
    """Two products of attention, three of crossing, two of feed-forward; new heads are free."""
    new = "decoder.layers.0.feedforward.up.weight"
    model, layers = adapted(base, AdapterRecipe(rank=2), new=(new,))
    assert len(layers) == (2 + 2) + (2 + 3 + 2) - 1
    learning = {name for name, value in model.named_parameters() if value.requires_grad}
    assert {name for name in learning if ".lora_" not in name} == {new}
    assert len(learning) == 2 * len(layers) + 1


def test_a_fresh_adapter_changes_nothing_and_depends_on_the_seed(base: Path) -> None:
    """B begins as zeros; A is drawn from the seed, and nobody else's random numbers move."""
    plain, model = load_checkpoint(base).model.eval(), load_checkpoint(base).model.eval()
    state = torch.get_rng_state()
    add_adapters(model, AdapterRecipe(rank=2), (), seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(answers(model), answers(plain))
    again = load_checkpoint(base).model
    add_adapters(again, AdapterRecipe(rank=2), (), seed=7)
    for name, value in again.named_parameters():
        assert torch.equal(value, dict(model.named_parameters())[name])


def test_training_changes_the_layers_by_a_matrix_of_that_rank_and_nothing_else(
    base: Path, tmp_path: Path
) -> None:
    """Tables, norms and biases are the base's; every linear weight moved within the rank."""
    said: list[str] = []
    recipe = small_recipe(
        tmp_path, start=str(base), adapter={"rank": 1}, optimizer={"learning_rate": 0.01}
    )
    trained = train(recipe, tmp_path / "run", quiet=True, say=said.append)
    before, after = weights(base), weights(trained.checkpoint)
    assert list(before) == list(after)
    for name, value in before.items():
        change = after[name] - value
        linear = name.endswith(".weight") and value.ndim == 2 and "embedding" not in name
        if linear and "positions" not in name:
            assert torch.linalg.matrix_rank(change, rtol=1e-3) == 1, name
        else:
            assert torch.equal(after[name], value), name
    card = json.loads((trained.checkpoint / "training.json").read_text())
    assert card["learnt_parameters"] < card["parameters"] / 3
    assert "adapters of rank 1 beside 11 linear layers" in said
    assert any(f"{card['learnt_parameters']:,} of them learn" in line for line in said)


def test_a_stopped_training_goes_on_with_its_adapters(base: Path, tmp_path: Path) -> None:
    """Five steps and five more give the weights of ten."""
    for name, stops in (("whole", (10,)), ("parts", (5, 10))):
        folder = tmp_path / name
        folder.mkdir()
        for stop in stops:
            recipe = small_recipe(
                folder,
                start=str(base),
                adapter={"rank": 2, "dropout": 0.2},
                optimizer={"steps": stop, "schedule": "constant"},
            )
            if stop == 10 and name == "parts":
                lengthen(folder / "run", 10)
            trained = train(recipe, folder / "run", resume=stop == 10, quiet=True)
    whole, parts = (weights(tmp_path / name / "run" / "model") for name in ("whole", "parts"))
    assert trained.steps == 10
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name


def lengthen(run: Path, steps: int) -> None:
    """As if the run had been killed: its recipe had more steps from the beginning."""
    values = json.loads((run / "recipe.json").read_text())
    values["recipe"]["optimizer"]["steps"] = steps
    (run / "recipe.json").write_text(json.dumps(values))


def test_new_heads_are_saved_beside_the_merged_layers(base: Path, tmp_path: Path) -> None:
    """A classifier on a translator's encoder: its head learns whole."""
    rows = [(source, "long" if len(source.split()) > 2 else "short") for source, _ in lines()]
    recipe = small_recipe(
        tmp_path,
        objective="classify",
        data={"train": [write_pairs(tmp_path / "labels.tsv", rows)]},
        start=str(base),
        adapter={"rank": 2},
    )
    trained = train(recipe, tmp_path / "run", quiet=True)
    loaded = load_checkpoint(trained.checkpoint)
    assert loaded.labels == ("long", "short")
    assert loaded.dims.head == "classifier"
    card = json.loads((trained.checkpoint / "training.json").read_text())
    head = sum(v.numel() for n, v in loaded.model.named_parameters() if "classifier" in n)
    beside = sum(2 * (into + out) for into, out in ((16, 48), (16, 16), (16, 32), (32, 16)))
    assert card["learnt_parameters"] == head + beside


def test_rank_zero_leaves_the_model_as_it_is(base: Path, tmp_path: Path) -> None:
    """No layer is replaced, and every weight learns."""
    recipe = small_recipe(tmp_path, start=str(base), optimizer={"learning_rate": 0.01})
    trained = train(recipe, tmp_path / "run", quiet=True)
    before, after = weights(base), weights(trained.checkpoint)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert set(before) - moved == {"encoder.positions.weight", "decoder.positions.weight"}
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state_dict"]
    assert not [name for name in state if "lora" in name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter": {"rank": 4}}, r"adapter\.rank: adapters change a trained model, set start"),
        ({"adapter": {"alpha": 4.0}}, r"adapter\.rank: 0, the other settings are about adapters"),
        ({"adapter": {"rank": 4, "alpha": 0.0}, "start": "x"}, r"adapter\.alpha: must be above 0"),
        ({"adapter": {"rank": 4, "dropout": 1.0}, "start": "x"}, r"adapter\.dropout: 1\.0 is not"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Before anything is read."""
    with pytest.raises(TrainingError, match=message):
        small_recipe(tmp_path, **changes)
