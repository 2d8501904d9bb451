import pytest
import small_recipes
import torch

from seq2edge.errors import TrainingError
from seq2edge.model.transformer import Transformer
from seq2edge.training.presets import make_dims


def test_a_recipes_sizes_replace_the_presets(tmp_path):
    """A recipes sizes replace the presets."""
    dims = make_dims(small_recipes.spelling(tmp_path, model__preset="base"), vocab=50)
    assert (dims.width, dims.encoder.hidden, dims.encoder.layers) == (32, 64, 1)
    bare = small_recipes.spelling(tmp_path, model={"preset": "base"})
    assert make_dims(bare, vocab=50).decoder.layers == 6


@pytest.mark.parametrize(
    ("objective", "kind"),
    [("denoise", "encoder-decoder"), ("causal", "decoder"), ("classify", "encoder")],
)
def test_an_objective_has_the_stacks_that_it_needs(tmp_path, objective, kind):
    """An objective has the stacks that it needs."""
    changes = {"tokenizer": {"kind": "words"}}
    recipe = small_recipes.spelling(tmp_path, objective=objective, **changes)
    assert make_dims(recipe, vocab=50, labels=3).kind == kind


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "relative", "rotary"])
def test_every_kind_of_positions_makes_a_model(tmp_path, positions):
    """Every kind of positions makes a model."""
    objective = "causal" if positions == "rotary" else "denoise"
    recipe = small_recipes.sentences(tmp_path, objective, model__positions=positions)
    with torch.device("meta"):
        assert Transformer(make_dims(recipe, vocab=50)).dims.decoder.positions == positions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model__width": 33}, "model.width: 33 is not a multiple of model.heads 2"),
        ({"model__positions": "rotary"}, "rotary is for causal models"),
        ({"model__activation": "step"}, "model: activation: 'step' is not supported"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(tmp_path, change, message):
    """Sizes that do not fit are refused."""
    with pytest.raises(TrainingError, match=message):
        make_dims(small_recipes.spelling(tmp_path, **change), vocab=50)
