"""A run's folder: what is prepared from the training files, kept, and made anew."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_recipes
from small_trainings import small_recipe, write_pairs

from seq2edge.errors import TrainingError
from seq2edge.runtime.tokenizer import Tokenizer
from seq2edge.training.batches import Plan
from seq2edge.training.recipe import Recipe
from seq2edge.training.run_folder import Run, RunSetup, open_run, prepare_run
from seq2edge.training.train import Machine, train


def prepared(folder: Path, **data: Any) -> Run:
    """Ten rows of news and four of talks, and two rows to validate on."""
    files = {
        name: write_pairs(folder / f"{name}.tsv", [(f"{name} {i}", str(i)) for i in range(count)])
        for name, count in (("news", 10), ("talks", 4), ("check", 2))
    }
    recipe = small_recipe(
        folder,
        data={
            "train": [files["news"], files["talks"]],
            "validation": [files["check"]],
            **data,
        },
    )
    return prepare_run(recipe, folder / "run", lambda _: None)


def test_texts_without_an_answer_have_no_tags(tmp_path: Path) -> None:
    """They would be dropped in silence."""
    with pytest.raises(TrainingError, match=r"data\.tags: stand before inputs, causal has none"):
        small_recipe(tmp_path, objective="causal", data={"train": ["a.txt"], "tags": ["x"]})


def read_in_an_epoch(run: Run, epoch: int = 0) -> Counter[int]:
    """How often each row is read."""
    weights = run.recipe.data.weights
    plan = Plan(corpus=run.train, tokens=60, seed=0, weights=weights)
    return Counter(np.concatenate(list(plan.epoch(epoch))).tolist())


def test_without_weights_every_row_is_read_once(tmp_path: Path) -> None:
    """In every epoch."""
    assert read_in_an_epoch(prepared(tmp_path)) == dict.fromkeys(range(14), 1)


def test_a_weight_says_how_often_a_files_rows_are_read(tmp_path: Path) -> None:
    """Half of the news, other ones in the next epoch; every talk twice or three times."""
    run = prepared(tmp_path, weights=[0.5, 2.5])
    first, second = read_in_an_epoch(run, 0), read_in_an_epoch(run, 1)
    for counts in (first, second):
        news = {row: count for row, count in counts.items() if row < 10}
        talks = [counts[row] for row in range(10, 14)]
        assert len(news) == 5
        assert set(news.values()) == {1}
        assert sorted(talks) == [2, 2, 3, 3]
    assert set(first) != set(second)


def test_a_tag_stands_before_the_inputs_of_its_file_alone(tmp_path: Path) -> None:
    """Not before answers, and not before validation rows; the tokenizer knows it."""
    run = prepared(tmp_path, tags=["", "talks: "])
    text = Tokenizer(tmp_path / "run" / "tokenizer", run.setup.tokenizer)

    def shown(corpus: Any, row: int, column: int) -> str:
        return text.decode(corpus.row(row, column).tolist(), skip_special_tokens=False)

    assert shown(run.train, 0, 0) == "news 0 </s>"
    assert shown(run.train, 10, 0) == "talks: talks 0 </s>"
    assert len(run.train.row(10)) == len(run.train.row(0)) + 1
    assert len(run.train.row(10, 1)) == len(run.train.row(0, 1))
    assert len(run.validation.row(0)) == len(run.train.row(0))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"weights": [1.0]}, r"data\.weights: 1 of them for 2 training files"),
        ({"tags": ["a", "b", "c"]}, r"data\.tags: 3 of them for 2 training files"),
        ({"weights": [1.0, 0.0]}, r"data\.weights: must be above 0, leave a file out"),
    ],
)
def test_there_is_one_for_every_training_file(
    tmp_path: Path, data: dict[str, Any], message: str
) -> None:
    """And a file is not weighed with nothing."""
    with pytest.raises(TrainingError, match=message):
        small_recipe(tmp_path, data={"train": ["a.tsv", "b.tsv"], **data})


def run(recipe: Recipe, folder: Path, **options: Any) -> None:
    """Train on the CPU without lines about steps."""
    train(recipe, folder, machine=Machine(device="cpu"), quiet=True, **options)


def test_a_finished_run_is_not_overwritten_and_another_recipe_is_refused(tmp_path: Path) -> None:
    """Neither without `resume`, nor with it for other steps."""
    recipe = small_recipes.spelling(tmp_path, optimizer__steps=10)
    run(recipe, tmp_path / "run")
    with pytest.raises(TrainingError, match="holds a run already, resume it or choose"):
        run(recipe, tmp_path / "run")
    other = small_recipes.spelling(tmp_path, optimizer__steps=11)
    with pytest.raises(TrainingError, match="holds a run of another recipe"):
        run(other, tmp_path / "run", resume=True)


def test_a_mended_recipe_and_changed_files_are_read_anew_until_something_is_learnt(
    tmp_path: Path,
) -> None:
    """A folder with a mistake in it need not be thrown away; one with a model is kept as it is."""
    wrong = small_recipes.spelling(tmp_path, data__validation=[str(tmp_path / "none.tsv")])
    with pytest.raises(TrainingError, match=r"none.tsv"):
        run(wrong, tmp_path / "run")
    recipe = small_recipes.spelling(tmp_path, optimizer__steps=10)
    with (tmp_path / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("abc\tA B C\n")
    (tmp_path / "run" / "privacy.json").write_text("{}", encoding="utf-8")
    said: list[str] = []
    run(recipe, tmp_path / "run", say=said.append)
    assert any("train: 301 rows" in line for line in said)
    assert not (tmp_path / "run" / "privacy.json").exists()
    with (tmp_path / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("abc\tA B C\n")
    with pytest.raises(TrainingError, match="holds a run of files that have changed since"):
        run(recipe, tmp_path / "run", resume=True)


def test_a_run_opens_as_it_was_prepared(tmp_path: Path) -> None:
    """From `facts.json`, whose keys users hold, and the corpora."""
    made = prepared(tmp_path, tags=["", "talks: "])
    opened = open_run(made.recipe, made.folder)
    assert opened.setup == made.setup
    assert opened.train.row(10).tolist() == made.train.row(10).tolist()
    assert opened.validation is not None
    values = json.loads((made.folder / "facts.json").read_text(encoding="utf-8"))
    assert list(values) == ("dims tokenizer generation start end special first labels".split())
    assert RunSetup.from_dict(values) == made.setup
    (made.folder / "facts.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"facts\.json: damaged"):
        open_run(made.recipe, made.folder)
