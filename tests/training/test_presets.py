import pytest
import small_recipes
import torch

from seq2edge.errors import TrainingError
from seq2edge.model.transformer import Transformer
from seq2edge.training import presets
from seq2edge.training.presets import PRESETS, count_parameters, make_dims


def test_a_recipes_sizes_replace_the_presets(tmp_path):
    """A size that is set wins, one that is not comes from the preset."""
    dims = make_dims(small_recipes.spelling(tmp_path, model__preset="base"), vocab=50)
    assert (dims.width, dims.encoder.hidden, dims.encoder.layers) == (32, 64, 1)
    bare = small_recipes.spelling(tmp_path, model={"preset": "base"})
    assert make_dims(bare, vocab=50).decoder.layers == 6


@pytest.mark.parametrize(
    ("objective", "kind"),
    [("denoise", "encoder-decoder"), ("causal", "decoder"), ("classify", "encoder")],
)
def test_an_objective_has_the_stacks_that_it_needs(tmp_path, objective, kind):
    """Causal models have no encoder, classifiers no decoder."""
    changes = {"tokenizer": {"kind": "words"}}
    recipe = small_recipes.spelling(tmp_path, objective=objective, **changes)
    assert make_dims(recipe, vocab=50, labels=3).kind == kind


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "relative", "rotary"])
def test_every_kind_of_positions_makes_a_model(tmp_path, positions):
    """Learned, sinusoidal, relative and rotary positions fit their objectives."""
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
    """With the key of the recipe, before a model is made."""
    with pytest.raises(TrainingError, match=message):
        make_dims(small_recipes.spelling(tmp_path, **change), vocab=50)


@pytest.mark.parametrize(
    ("objective", "told"),
    [("denoise", "2.0, 9.6, 48.5 and\n185"), ("causal", "1.5, 5.3, 23.1 and 84")],
)
def test_the_presets_have_the_parameters_that_the_module_tells(tmp_path, objective, told):
    """The presets have the parameters that the module tells, in millions."""
    assert told in presets.__doc__
    numbers = [float(word) for word in told.replace(",", " ").replace("and", " ").split()]
    for preset, number in zip(PRESETS, numbers, strict=True):
        recipe = small_recipes.sentences(tmp_path, objective, model={"preset": preset})
        count = count_parameters(make_dims(recipe, vocab=8000))[0] / 1e6
        assert count == pytest.approx(number, abs=0.5 if number > 80 else 0.05)


def test_parameters_are_counted_with_and_without_tables(tmp_path):
    """Tables of tokens and positions are left out of the second number."""
    recipe = small_recipes.sentences(tmp_path, "denoise")
    dims = make_dims(recipe, vocab=50, source_vocab=20)
    model = Transformer(dims)
    everything = sum(parameter.numel() for parameter in model.parameters())
    positions = sum(stack.max_positions for stack in (dims.encoder, dims.decoder))
    tables = dims.width * (50 + 20 + positions)
    assert count_parameters(dims) == (everything, everything - tables)
