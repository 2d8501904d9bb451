"""The examples from their data to measured answers, in seconds; and the shipped model."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
G2P = ROOT / "examples" / "g2p"
LARGEST = 4_000_000  # bytes of the shipped weights


@pytest.fixture
def run():
    """The script of the examples."""
    return importlib.import_module("run")


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "files", "metrics"),
    [
        ("g2p", ["test.jsonl"], ["per", "exact"]),
        ("pretraining", [], []),
        ("classification", ["test.tsv"], ["accuracy", "f1"]),
        ("summarization", ["test.tsv"], ["chrf", "rougeL"]),
        ("translation", ["help-test.tsv", "packages-test.tsv"], ["bleu", "chrf"]),
    ],
)
def test_an_example_runs_as_it_stands(run, tmp_path, name, files, metrics):
    """Prepare, train, export, evaluate; a model of 20 steps knows nothing: no figure is asked."""
    from weights import FetchError

    done = CliRunner().invoke(run.main, [name, "--quick", "-o", str(tmp_path / "run")])
    if isinstance(done.exception, FetchError):
        pytest.skip(f"its data cannot be fetched here: {done.exception}")
    assert done.exit_code == 0, (done.output, done.exception)
    assert (tmp_path / "run" / "bundle" / "manifest.json").is_file()
    for text in [*files, *metrics]:
        assert text in done.stdout


def test_the_shipped_model_is_small_and_says_how_it_was_made():
    """Weights below 4 MB, of the recipe beside them."""
    from seq2edge.training.recipe import read_recipe, recipe_of

    assert (G2P / "model" / "model.safetensors").stat().st_size < LARGEST
    card = json.loads((G2P / "model" / "training.json").read_text(encoding="utf-8"))
    assert card["steps"] == card["recipe"]["optimizer"]["steps"]
    made, asked = recipe_of(card["recipe"]), read_recipe(G2P / "recipe.toml")
    for section in ("model", "tokenizer", "optimizer", "decoding"):
        assert getattr(made, section) == getattr(asked, section)


def test_the_demo_errs_no_more_than_promised(tmp_path, monkeypatch, capsys):
    """With the shipped model on 500 words; all 2,000 are measured in its card."""
    import demo

    import seq2edge
    from seq2edge.evaluation.examples import read_examples
    from seq2edge.evaluation.metrics import find_metric, score

    monkeypatch.setattr(demo, "BUNDLE", tmp_path / "bundles" / "g2p")
    demo.main()
    shown = capsys.readouterr().out
    assert float(re.search(r"phoneme error (\d+\.\d+)", shown)[1]) < 9.5
    assert "verify" in shown
    model = seq2edge.load(demo.BUNDLE, device="cpu")
    assert model.options.num_beams == 4
    examples = read_examples(G2P / "test.jsonl", "generate")
    assert len(examples) == 2000
    assert score(find_metric("exact"), model, examples[::5]).estimate().value > 60
