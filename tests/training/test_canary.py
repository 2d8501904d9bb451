"""Exposure of canaries: the measure, the rows, and that privacy lowers it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from small_trainings import MODEL, lines, small_recipe, write_pairs

from seq2edge.cli import main
from seq2edge.errors import TrainingError
from seq2edge.runtime.tokenizer import Tokenizer
from seq2edge.training.canary import (
    ROWS,
    Settings,
    _example,
    _texts,
    exposure_bits,
    insert_canaries,
    log_likelihoods,
    measure_exposure,
    numbers,
)
from seq2edge.training.initialise import new_model
from seq2edge.training.recipe import Recipe
from seq2edge.training.run_folder import prepare_run
from seq2edge.training.training_module import target_losses

SETTINGS = Settings(count=4, repeats=8, digits=4, candidates=200)


def bytes_recipe(folder: Path, **changes: Any) -> Recipe:
    """Bytes, which are learnt from nothing, and enough steps to memorise."""
    values: dict[str, Any] = {
        "tokenizer": {"kind": "bytes", "size": 300},
        "model": {**MODEL, "width": 32, "hidden": 64, "max_positions": 64},
        "optimizer": {"steps": 250, "batch_tokens": 2500, "learning_rate": 0.01, "warmup": 20},
        "check": {"every": 1000},
    }
    return small_recipe(folder, **{**values, **changes})


def test_exposure_is_the_bits_that_a_rank_saves() -> None:
    """All of them for the first, none for the last."""
    assert exposure_bits(1, 1024) == 10
    assert exposure_bits(512, 1024) == 1
    assert exposure_bits(1024, 1024) == 0


def test_memorised_numbers_are_exposed_and_private_training_hides_them(tmp_path: Path) -> None:
    """The same rows and steps: near all bits without privacy, near chance with epsilon 0.5."""
    plain = measure_exposure(bytes_recipe(tmp_path), tmp_path / "plain", SETTINGS, quiet=True)
    privacy = {"epsilon": 0.5, "delta": 1e-3, "batch": 16}
    hidden = measure_exposure(
        bytes_recipe(tmp_path, privacy=privacy), tmp_path / "private", SETTINGS, quiet=True
    )
    most = exposure_bits(1, SETTINGS.candidates)
    means = [sum(exposure.bits for exposure in found) / len(found) for found in (plain, hidden)]
    assert means[0] > 0.8 * most
    assert means[1] < 0.5 * most
    kept = json.loads((tmp_path / "plain" / "canaries.json").read_text())
    assert [c["rank"] for c in kept["canaries"]] == [exposure.rank for exposure in plain]


@pytest.mark.parametrize("objective", ["seq2seq", "causal"])
def test_the_training_reads_what_is_measured(objective: str, tmp_path: Path) -> None:
    """A planted row has the ids of its likelihood, which is that of the whole row."""
    rows = [row[:1] if objective == "causal" else row for row in lines()]
    name = "t.txt" if objective == "causal" else "t.tsv"
    recipe = bytes_recipe(
        tmp_path, objective=objective, data={"train": [write_pairs(tmp_path / name, rows)]}
    )
    folder = tmp_path / "run"
    run = prepare_run(insert_canaries(recipe, folder, SETTINGS), folder, lambda _: None)
    assert run.train.files == (40, 4 * 8 + 1)
    model, collator = new_model(run.setup.dims, 0).eval(), run.collator(run.train)
    tokenizer = Tokenizer(folder / "tokenizer", run.setup.tokenizer)
    for i, number in enumerate(numbers(recipe, SETTINGS)):
        example = _example(_texts(i, number, recipe), tokenizer, run)
        (score,) = log_likelihoods(model, run, [example])
        with torch.no_grad():
            losses = target_losses(model, collator.collate([collator.example(40 + i, 0)], 1.0))
        assert score.item() == pytest.approx(-losses.sum().item(), rel=1e-5)


def test_canaries_depend_on_the_seed_and_stand_beside_the_other_files(tmp_path: Path) -> None:
    """Weights and tags get one more; keys are the recipe's."""
    rows = tmp_path / "t.jsonl"
    rows.write_text('{"a": "x", "b": "y"}\n')
    data = {"train": [str(rows)], "fields": ["a", "b"], "weights": [2.0], "tags": ["t "]}
    recipe = bytes_recipe(tmp_path, data=data)
    planted = insert_canaries(recipe, tmp_path / "run", SETTINGS)
    assert planted.data.train == (str(rows), str(tmp_path / "run" / ROWS))
    assert planted.data.weights == (2.0, 1.0)
    assert planted.data.tags == ("t ", "")
    written = [json.loads(line) for line in (tmp_path / "run" / ROWS).read_text().splitlines()]
    assert len(written) == 33
    assert [row["b"] for row in written[:4]] == numbers(recipe, SETTINGS)
    assert numbers(recipe, SETTINGS) != numbers(bytes_recipe(tmp_path, seed=1), SETTINGS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "classify"}, "objective: classify answers with no text"),
        ({"objective": "denoise"}, "objective: denoise answers with no text"),
        ({"data": {"rows": 5}}, r"data\.rows: 5 leaves canaries out, of 33 rows"),
    ],
)
def test_what_cannot_hold_a_canary_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """Before anything is trained."""
    with pytest.raises(TrainingError, match=message):
        insert_canaries(bytes_recipe(tmp_path, **changes), tmp_path / "run", SETTINGS)


def test_a_folder_keeps_its_canaries(tmp_path: Path) -> None:
    """Others than those that were read would be measured."""
    insert_canaries(bytes_recipe(tmp_path), tmp_path / "run", SETTINGS)
    insert_canaries(bytes_recipe(tmp_path), tmp_path / "run", SETTINGS)
    with pytest.raises(TrainingError, match=r"canaries\.jsonl: holds other canaries"):
        insert_canaries(bytes_recipe(tmp_path), tmp_path / "run", Settings(digits=4, candidates=9))


def test_too_few_numbers_are_refused(tmp_path: Path) -> None:
    """A rank among all of them needs as many."""
    with pytest.raises(TrainingError, match="2 digits give fewer than 1,000 candidates"):
        insert_canaries(bytes_recipe(tmp_path), tmp_path / "run", Settings(digits=2))


def test_digits_that_the_tokenizer_does_not_know_are_an_error(tmp_path: Path) -> None:
    """Candidates would be one and the same text; it is said before anything is learnt."""
    with pytest.raises(TrainingError, match="does not tell their digits apart"):
        measure_exposure(small_recipe(tmp_path, tokenizer={"size": 13}), tmp_path / "run", SETTINGS)
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_a_tokenizer_of_words_learns_all_digits(tmp_path: Path) -> None:
    """Also those of no canary."""
    few = Settings(count=1, digits=2, candidates=50)
    (found,) = measure_exposure(small_recipe(tmp_path), tmp_path / "run", few, quiet=True)
    assert 1 <= found.rank <= 50


def test_the_command_prints_a_line_for_every_canary(tmp_path: Path) -> None:
    """And the mean on stderr; bad sizes are wrong usage."""
    write_pairs(tmp_path / "train.tsv", lines())
    (tmp_path / "r.toml").write_text(
        'objective = "seq2seq"\ndata.train = ["train.tsv"]\ntokenizer.kind = "bytes"\n'
        "[model]\nwidth = 16\nhidden = 32\nheads = 2\nmax_positions = 64\n"
        "[optimizer]\nsteps = 3\n"
    )
    arguments = ["canary", str(tmp_path / "r.toml"), "-o", str(tmp_path / "run")]
    done = CliRunner().invoke(main, [*arguments, "--count", "2", "--candidates", "50"])
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == 2
    assert all("bits" in line and "rank" in line for line in done.stdout.splitlines())
    assert "mean exposure" in done.stderr
    assert "1.4 where nothing is memorised" in done.stderr
    assert CliRunner().invoke(main, [*arguments, "--digits", "1"]).exit_code == 2
