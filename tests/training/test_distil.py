"""Pairs that a bundle made: their form, what is left out, stops, and a training on them."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from small_recipes import lines, small_recipe, write_rows

import seq2edge
from seq2edge.cli import main
from seq2edge.errors import InputError, TrainingError
from seq2edge.export.pipeline import export_checkpoint
from seq2edge.runtime.model import Model
from seq2edge.runtime.sequences import GeneratedText
from seq2edge.runtime.understanding import Classification
from seq2edge.training.distil import distil
from seq2edge.training.recipe import Recipe
from seq2edge.training.train import train

TEXTS = ["red green", "", "blue", "loud", "endless", "refused", "tab\tand  space", "white"]


def bundle_of(folder: Path, recipe: Recipe) -> Path:
    """A trained and exported bundle."""
    trained = train(recipe, folder / "run", quiet=True)
    return export_checkpoint(trained.checkpoint, folder / "bundle").bundle.path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that answers colours with colours."""
    folder = tmp_path_factory.mktemp("teacher")
    optimizer = {"steps": 200, "batch_tokens": 400, "learning_rate": 0.01}
    decoding = {"max_new_tokens": 8}
    return bundle_of(folder, small_recipe(folder, optimizer=optimizer, decoding=decoding))


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that labels colours."""
    folder = tmp_path_factory.mktemp("judge")
    rows = [(source, "long" if len(source.split()) > 2 else "short") for source, _ in lines()]
    train_file = write_rows(folder / "l.tsv", rows)
    recipe = small_recipe(folder, objective="classify", data={"train": [train_file]})
    return bundle_of(folder, recipe)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A file of texts."""
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    return tmp_path / "texts.txt"


def answering(teacher: Path, monkeypatch: pytest.MonkeyPatch, stop: int = 99) -> Model:
    """The teacher, whose answers are set; it breaks at its call number `stop`."""
    model = seq2edge.load(teacher, threads=1)
    calls = itertools.count(1)

    def generate(texts: list[str], *_: Any, **__: Any) -> list[list[GeneratedText]]:
        if next(calls) == stop:
            raise KeyboardInterrupt
        if "refused" in texts:
            raise InputError("source 0: 99 tokens, the model takes 32")
        shown = {"loud": " ", "endless": "and on"}
        return [
            [
                GeneratedText(
                    text=shown.get(t, t.upper()),
                    ids=(),
                    score=0.0,
                    finish_reason="length" if t == "endless" else "stop",
                )
            ]
            for t in texts
        ]

    monkeypatch.setattr(model, "generate", generate)
    return model


def test_pairs_stand_in_the_order_of_the_texts_and_others_are_counted(
    teacher: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty, unfinished and refused ones are left out; a tab inside becomes a space."""
    done = distil(answering(teacher, monkeypatch), texts, tmp_path / "p.tsv", batch=3)
    assert (tmp_path / "p.tsv").read_text() == (
        "red green\tRED GREEN\nblue\tBLUE\ntab and  space\tTAB AND  SPACE\nwhite\tWHITE\n"
    )
    assert (done.texts, done.pairs) == (7, 4)
    assert done.left_out == {
        "an empty text": 1,
        "an empty answer": 1,
        "an answer that was cut off": 1,
        "a text that the bundle does not take": 1,
    }
    assert f"{texts}:6: source 0: 99 tokens, the model takes 32" in done.first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.tsv", "texts.txt"]


@pytest.mark.parametrize("stop", range(1, 6))
def test_a_stopped_call_goes_on_where_it_was(
    teacher: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Wherever it stopped, file and counts are those of one call, also after half a batch."""
    whole = distil(answering(teacher, monkeypatch), texts, tmp_path / "whole.jsonl", batch=2)
    part = tmp_path / "p.jsonl.part"
    with pytest.raises(KeyboardInterrupt):
        distil(answering(teacher, monkeypatch, stop), texts, tmp_path / "p.jsonl", batch=2)
    with part.open("ab") as file:
        file.write(b'{"input": "half of a ba' + b"x" * 10000)
    done = distil(answering(teacher, monkeypatch), texts, tmp_path / "p.jsonl", batch=2)
    assert done.path.read_bytes() == whole.path.read_bytes()
    assert (done.texts, done.pairs, done.left_out) == (whole.texts, whole.pairs, whole.left_out)
    assert json.loads(done.path.read_text().splitlines()[2])["input"] == "tab\tand  space"


def test_another_work_does_not_go_on_in_the_same_file(
    teacher: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other options would make a file of two kinds; a finished file is not replaced."""
    model = answering(teacher, monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        distil(model, texts, tmp_path / "p.tsv", batch=2)
    with pytest.raises(TrainingError, match=r"p\.tsv\.part: begun with another bundle, other te"):
        distil(model, texts, tmp_path / "p.tsv", options=model.options.replace(num_beams=2))
    (tmp_path / "p.tsv.part.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"part\.json: damaged, remove it"):
        distil(model, texts, tmp_path / "p.tsv")
    (tmp_path / "done.tsv").write_text("")
    with pytest.raises(TrainingError, match=r"done\.tsv: exists, choose another name"):
        distil(model, texts, tmp_path / "done.tsv")


def test_a_student_trains_on_what_the_teacher_says(teacher: Path, tmp_path: Path) -> None:
    """The pairs are ordinary training data, and the answers are the runtime's own."""
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"{source}\n" for source, _ in lines(12, seed=3)))
    model = seq2edge.load(teacher, threads=1)
    options = model.options.replace(num_beams=2, num_return_sequences=2)
    done = distil(model, texts, tmp_path / "pairs.tsv", options=options, batch=5)
    assert done.pairs > 12
    rows = [line.split("\t") for line in done.path.read_text().splitlines()]
    source = rows[0][0]
    expected = [text.text for text in model.generate([source], options)[0] if text.finished]
    assert [answer for text, answer in rows if text == source][: len(expected)] == expected
    recipe = small_recipe(tmp_path, data={"train": [str(done.path)]})
    assert train(recipe, tmp_path / "student", quiet=True).steps == 10


def test_a_classifier_answers_with_labels(
    judge: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that `classify` gives."""
    model = seq2edge.load(judge, threads=1)
    done = distil(model, texts, tmp_path / "labels.tsv")
    rows = [line.split("\t") for line in done.path.read_text().splitlines()]
    assert len(rows) == 7
    found: list[Classification] = model.classify([text for text in TEXTS if text])
    assert [label for _, label in rows] == [classified.label for classified in found]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": "p.txt"}, r"p\.txt: its name ends in neither \.tsv nor \.jsonl"),
        ({"texts": "none.txt"}, r"none\.txt: No such file"),
        ({"texts": "pairs.tsv"}, r"pairs\.tsv:1: 2 columns, expected 1"),
        ({"texts": "empty.txt"}, r"p\.tsv: no pairs: 2, an empty text; .*empty\.txt:1"),
        ({"output": "no/p.tsv"}, r"p\.tsv\.part: No such file"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    teacher: Path, texts: Path, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    """And nothing is left behind."""
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "pairs.tsv").write_text("a\tb\n")
    names = {"texts": "texts.txt", "output": "p.tsv", **change}
    with pytest.raises(TrainingError, match=message):
        distil(seq2edge.load(teacher), tmp_path / names["texts"], tmp_path / names["output"])
    assert not list(tmp_path.glob("p.*"))


def test_unknown_languages_are_an_error_not_a_refused_text(teacher: Path, texts: Path) -> None:
    """They would leave out every line."""
    with pytest.raises(InputError, match="'xx': this model takes none"):
        distil(seq2edge.load(teacher), texts, texts.with_name("p.tsv"), target_language="xx")


def test_bundles_that_answer_no_texts_are_refused(
    exported: Callable[[str], Any], texts: Path
) -> None:
    """A model of embeddings has no answers."""
    bundle = exported("bert-embedding")[1] / "bundle"
    with pytest.raises(TrainingError, match="made to embed, it answers no texts"):
        distil(seq2edge.load(bundle), texts, texts.with_name("p.tsv"))


def test_the_command_says_what_was_left_out(teacher: Path, texts: Path, tmp_path: Path) -> None:
    """The file's name on stdout, the rest on stderr."""
    arguments = ["distil", str(teacher), str(texts), "-o", str(tmp_path / "p.jsonl"), "-b", "2"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "p.jsonl")
    assert "left out: 1, an empty text" in done.stderr
    assert CliRunner().invoke(main, arguments).exit_code == 1


def test_distilling_loads_no_torch() -> None:
    """It runs where the bundle does."""
    code = "import sys, seq2edge.training.distil; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "lightning", "onnx"} & set(done.stdout.split())
