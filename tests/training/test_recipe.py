import pytest
import small_recipes

from seq2edge.errors import TrainingError
from seq2edge.training.recipe import parse_value, read_recipe, recipe_of

TEXT = """
objective = "seq2seq"
[data]
train = ["a.tsv"]
[optimizer]
steps = 5
"""


def written(tmp_path, text=TEXT):
    """The recipe in a file."""
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_files_are_found_beside_the_recipe_and_the_rest_takes_defaults(tmp_path):
    """Relative names become absolute ones from the recipe's folder."""
    recipe = read_recipe(written(tmp_path))
    assert recipe.data.train == (str((tmp_path / "a.tsv").resolve()),)
    assert recipe.optimizer.steps == 5
    assert recipe.model.preset == "tiny"


def test_changes_by_dotted_name_win(tmp_path):
    """They replace what the file says and may name sections that it lacks."""
    changes = {"optimizer.steps": 7, "model.width": 64, "seed": 3}
    recipe = read_recipe(written(tmp_path), changes)
    assert (recipe.optimizer.steps, recipe.model.width, recipe.seed) == (7, 64, 3)


def test_a_recipe_comes_back_from_its_values(tmp_path):
    """`recipe_of` inverts `to_dict`."""
    recipe = small_recipes.spelling(tmp_path)
    assert recipe_of(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "guess"}, "objective: expected one of .*'seq2seq'"),
        ({"optimizer.step": 5}, "optimizer.step: unknown, known here: accumulate"),
        ({"optimizer.steps": 0}, "optimizer.steps: must be 1 or more"),
        ({"optimizer.steps": "many"}, "optimizer.steps: expected an integer, got 'many'"),
        ({"optimizer.learning_rate": -1.0}, "learning_rate: must be above 0"),
        ({"model": 3}, "model: expected a section"),
        ({"model.dropout": 1.0}, "model.dropout: 1.0 is not from 0 to below 1"),
        ({"data.train": []}, "data.train: names no file"),
        ({"data.weights": [1.0, 2.0]}, "data.weights: 2 of them for 1 training files"),
        ({"data.weights": [0.0]}, "data.weights: must be above 0"),
        ({"objective": "causal", "data.fields": ["a", "b"]}, "causal reads one text a row"),
        ({"objective": "denoise", "tokenizer.target": "words"}, "denoise has one vocabulary"),
        ({"adapter.rank": 4}, "adapter.rank: .* set start"),
        ({"check.every": 0}, "check.every: must be 1 or more"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(tmp_path, change, message):
    """Unknown keys, wrong types, impossible numbers and contradictions name the key."""
    with pytest.raises(TrainingError, match=message):
        read_recipe(written(tmp_path), change)


def test_a_missing_section_and_a_missing_file_are_named(tmp_path):
    """The error says the section, or the path that could not be read."""
    with pytest.raises(TrainingError, match="optimizer: missing"):
        read_recipe(written(tmp_path, 'objective = "causal"\n[data]\ntrain = ["a.txt"]\n'))
    with pytest.raises(TrainingError, match="No such file"):
        read_recipe(tmp_path / "none.toml")
    with pytest.raises(TrainingError, match="not TOML"):
        read_recipe(written(tmp_path, "objective"))


def test_values_on_the_command_line_are_toml_or_text():
    """Numbers, booleans and lists are parsed, anything else is the text itself."""
    assert [parse_value(text) for text in ("3", "true", '["a"]', "cosine")] == [
        3,
        True,
        ["a"],
        "cosine",
    ]
