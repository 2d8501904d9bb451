"""`seq2edge train` from outside."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import small_recipes
from command_line import call

from seq2edge.commands import train as train_command

RECIPE = """
objective = "seq2seq"
[data]
train = ["train.tsv"]
validation = ["validation.tsv"]
[tokenizer]
kind = "characters"
size = 20
target = "words"
target_size = 20
[model]
width = 32
hidden = 64
heads = 2
encoder_layers = 1
decoder_layers = 1
max_positions = 24
[optimizer]
steps = 10
batch_tokens = 300
[check]
every = 5
"""


@pytest.fixture
def recipe(tmp_path):
    """A recipe beside its data."""
    small_recipes.spelling(tmp_path)
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def test_the_checkpoint_is_printed_and_the_rest_goes_to_stderr(recipe, tmp_path):
    """So that a script can take the path."""
    done = call("train", recipe, "-o", tmp_path / "run", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "run" / "model")
    for text in (
        "train: 300 rows",
        "encoder-decoder of 0.0",
        "step 10: validation loss",
        "10 steps",
    ):
        assert text in done.stderr


def test_settings_change_the_recipe(recipe, tmp_path):
    """`--set` takes TOML values and plain words."""
    settings = ["-s", "optimizer.steps=4", "-s", "optimizer.schedule=constant"]
    done = call("train", recipe, "-o", tmp_path / "run", "--device", "cpu", *settings)
    assert "4 steps in" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-s", "objective=guess"], "objective: expected one of"),
        (["-s", "optimizer.stepz=4"], "optimizer.stepz: unknown"),
        (["-s", "data.train=['none.tsv']"], "none.tsv: cannot be read: .*No such file"),
        (["--start", "nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_1(recipe, tmp_path, arguments, message):
    """No traceback, no half-made model."""
    done = call("train", recipe, "-o", tmp_path / "run", *arguments)
    assert done.exit_code == 1
    assert len(done.stderr.strip().splitlines()[-1:]) == 1
    import re

    assert re.search(message, done.stderr)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "model").exists()


def test_the_privacy_budget_has_an_option(recipe, tmp_path):
    """A tokenizer learnt from private texts would give them away, so this recipe is refused."""
    done = call("train", recipe, "-o", tmp_path / "run", "--private-epsilon", "3")
    assert done.exit_code == 1
    assert "tokenizer" in done.stderr.splitlines()[-1]


def test_a_setting_without_a_value_is_a_usage_error(recipe, tmp_path):
    """Exit code 2, with the text that was given."""
    done = call("train", recipe, "-o", tmp_path / "run", "-s", "steps")
    assert done.exit_code == 2
    assert "'steps' is not KEY=VALUE" in done.stderr


@pytest.mark.parametrize(
    ("screen", "expected"),
    [
        (False, "a\nstep 1\ncheck\nstep 3\n"),
        (True, f"\r{'a':<78}\n\r{'step 1':<78}\r{'step 2':<78}\r{'check':<78}\n\r{'step 3':<78}"),
    ],
)
def test_passing_lines_are_written_over_on_a_screen_and_rare_elsewhere(
    monkeypatch, capsys, screen, expected
):
    """In a file a line of steps stands twice a minute, other lines always."""
    now = 100.0
    monkeypatch.setattr(train_command, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: screen)
    say = train_command.lines_to_stderr()
    for seconds, line in (
        (0, "a"),
        (1, "\rstep 1"),
        (2, "\rstep 2"),
        (3, "check"),
        (40, "\rstep 3"),
    ):
        now = 100.0 + seconds
        say(line)
    assert capsys.readouterr().err == expected
