"""Several training files: how often each is read, and what stands before its inputs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_trainings import small_recipe, write_pairs

from seq2edge.errors import TrainingError
from seq2edge.runtime.tokenizer import Tokenizer
from seq2edge.training.batches import Plan
from seq2edge.training.run_folder import Run, open_run, prepare


def material(folder: Path, **data: Any) -> Run:
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
    prepare(recipe, folder / "run", lambda _: None)
    return open_run(folder / "run")


def test_texts_without_an_answer_have_no_tags(tmp_path: Path) -> None:
    """They would be dropped in silence."""
    with pytest.raises(TrainingError, match=r"data\.tags: stand before inputs, causal has none"):
        small_recipe(tmp_path, objective="causal", data={"train": ["a.txt"], "tags": ["x"]})


def read_in_an_epoch(found: Run, epoch: int = 0) -> Counter[int]:
    """How often each row is read."""
    weights = found.recipe.data.weights
    plan = Plan(corpus=found.train, tokens=60, seed=0, weights=weights)
    return Counter(np.concatenate(list(plan.epoch(epoch))).tolist())


def test_without_weights_every_row_is_read_once(tmp_path: Path) -> None:
    """In every epoch."""
    assert read_in_an_epoch(material(tmp_path)) == dict.fromkeys(range(14), 1)


def test_a_weight_says_how_often_a_files_rows_are_read(tmp_path: Path) -> None:
    """Half of the news, other ones in the next epoch; every talk twice or three times."""
    found = material(tmp_path, weights=[0.5, 2.5])
    first, second = read_in_an_epoch(found, 0), read_in_an_epoch(found, 1)
    for counts in (first, second):
        news = {row: count for row, count in counts.items() if row < 10}
        talks = [counts[row] for row in range(10, 14)]
        assert len(news) == 5
        assert set(news.values()) == {1}
        assert sorted(talks) == [2, 2, 3, 3]
    assert set(first) != set(second)


def test_a_tag_stands_before_the_inputs_of_its_file_alone(tmp_path: Path) -> None:
    """Not before answers, and not before validation rows; the tokenizer knows it."""
    found = material(tmp_path, tags=["", "talks: "])
    text = Tokenizer(tmp_path / "run" / "tokenizer", found.facts.tokenizer)

    def shown(corpus: Any, row: int, column: int) -> str:
        return text.decode(corpus.row(row, column).tolist(), skip_special_tokens=False)

    assert shown(found.train, 0, 0) == "news 0 </s>"
    assert shown(found.train, 10, 0) == "talks: talks 0 </s>"
    assert len(found.train.row(10)) == len(found.train.row(0)) + 1
    assert len(found.train.row(10, 1)) == len(found.train.row(0, 1))
    assert len(found.validation.row(0)) == len(found.train.row(0))


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
