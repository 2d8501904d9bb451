"""Embeddings that start from word vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_trainings import WORDS, small_recipe, write_pairs
from tokenizers import Tokenizer

from seq2edge.errors import TrainingError
from seq2edge.training.initialise import new_model
from seq2edge.training.run_folder import open_run, prepare
from seq2edge.training.train import train
from seq2edge.training.train_tokenizer import train_tokenizer
from seq2edge.training.vectors import fill_vectors, prepare_vectors, scaled, whole_word


def write_vectors(path: Path, words: list[str], width: int = 16) -> dict[str, np.ndarray]:
    """A GloVe file of random vectors."""
    rng = np.random.default_rng(0)
    vectors = {word: rng.normal(size=width).astype(np.float32) for word in words}
    rows = [f"{word} {' '.join(map(str, row))}\n" for word, row in vectors.items()]
    path.write_text("".join(rows), encoding="utf-8")
    return vectors


def prepared(folder: Path, said: list[str] | None = None, **changes: Any) -> Any:
    """The material of a run whose vectors were looked up, and its folder."""
    recipe = small_recipe(folder, **changes)
    prepare(recipe, folder / "run", lambda _: None)
    material = open_run(folder / "run")
    prepare_vectors(material, folder / "run", said.append if said is not None else lambda _: None)
    return material, folder / "run"


def test_tokens_get_the_vectors_of_their_words_and_others_stay(tmp_path: Path) -> None:
    """The rows of known words are the file's up to one factor; the rest is the new model's."""
    vectors = write_vectors(tmp_path / "glove.txt", [*WORDS[:4], "unseen"])
    said: list[str] = []
    material, run = prepared(tmp_path, said, vectors={"file": str(tmp_path / "glove.txt")})
    model = new_model(material.facts.dims, 0)
    before = model.embedding.weight.detach().clone()
    fill_vectors(model, run, frozen=False)
    after = model.embedding.weight.detach()
    tokenizer = Tokenizer.from_file(str(run / "tokenizer" / "tokenizer.json"))
    ids = [tokenizer.token_to_id(word) for word in WORDS[:4]]
    ratio = after[ids].numpy() / np.stack([vectors[word] for word in WORDS[:4]])
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)
    assert after[ids].square().mean().item() == pytest.approx(1 / 16, rel=1e-5)
    others = [i for i in range(len(after)) if i not in ids]
    assert torch.equal(after[others], before[others])
    assert model.embedding.weight.requires_grad
    assert "embedding: vectors for 4 of 8 words" in said[1]
    assert "most frequent without: " in said[1]


def test_the_exact_word_comes_before_its_lower_case(tmp_path: Path) -> None:
    """`Red` takes `Red` where the file has it, else `red`."""
    pairs = write_pairs(tmp_path / "t.tsv", [("Red Blue", "x")] * 5)
    vectors = write_vectors(tmp_path / "v.txt", ["red", "Red", "blue"])
    changes = {"data": {"train": [pairs]}, "vectors": {"file": str(tmp_path / "v.txt")}}
    _, run = prepared(tmp_path, **changes)
    with np.load(run / "vectors.npz") as values:
        rows = values["embedding.vectors"]
    raw = np.stack([vectors["Red"], vectors["blue"]])
    cosines = (rows @ raw.T) / np.outer(np.linalg.norm(rows, axis=1), np.linalg.norm(raw, axis=1))
    assert (cosines > 0.9999).sum() == 2


def test_frozen_tables_do_not_learn_and_others_do(tmp_path: Path) -> None:
    """After ten steps the words' rows are what they were; `training.json` tells the coverage."""
    write_vectors(tmp_path / "glove.txt", WORDS)
    for frozen in (True, False):
        folder = tmp_path / str(frozen)
        folder.mkdir()
        vectors = {"file": str(tmp_path / "glove.txt"), "frozen": frozen}
        recipe = small_recipe(folder, vectors=vectors)
        trained = train(recipe, folder / "run", quiet=True)
        after = load_file(trained.checkpoint / "model.safetensors")["embedding.weight"]
        with np.load(folder / "run" / "vectors.npz") as values:
            rows = torch.from_numpy(values["embedding.vectors"])
            kept = after[torch.from_numpy(values["embedding.ids"])]
        assert torch.equal(kept, rows) == frozen
        card = json.loads((trained.checkpoint / "training.json").read_text())["vectors"]
        assert card["file"] == "glove.txt"
        (entry,) = card["tables"]
        assert (entry["found"], entry["words"], entry["share_of_words_read"]) == (8, 8, 1.0)
        assert entry["frozen"] == frozen
        assert entry["missing"] == []


@pytest.mark.parametrize("chosen", ["both", "source", "target"])
def test_split_vocabularies_each_get_what_matches(tmp_path: Path, chosen: str) -> None:
    """Both tables by default, or the one that the recipe names."""
    pairs = write_pairs(tmp_path / "t.tsv", [("red blue", "rot blau")] * 5)
    write_vectors(tmp_path / "v.txt", ["red", "rot", "blau"])
    said: list[str] = []
    material, run = prepared(
        tmp_path,
        said,
        data={"train": [pairs]},
        tokenizer={"target": "words", "target_size": 200},
        vectors={"file": str(tmp_path / "v.txt"), "tables": chosen, "frozen": True},
    )
    model = new_model(material.facts.dims, 0)
    fill_vectors(model, run, frozen=True)
    assert model.source_embedding.weight.requires_grad == (chosen == "target")
    assert model.embedding.weight.requires_grad == (chosen == "source")
    shown = "\n".join(said)
    assert ("source embedding: vectors for 1 of 2 words, 50.0% of those" in shown) == (
        chosen != "target"
    )
    assert ("target embedding: vectors for 2 of 2 words, 100.0%" in shown) == (chosen != "source")


def test_of_subwords_only_whole_words_are_asked_for() -> None:
    """A piece inside a word is no word, even where it is spelled like one."""
    texts = ["red blue red blue the red"] * 30
    bpe = train_tokenizer(texts, "bpe", 300)
    assert whole_word("Ġred", bpe) == "red"
    assert whole_word("red", bpe) == ""
    unigram = train_tokenizer(texts, "unigram", 40)
    assert whole_word("▁red", unigram) == "red"
    assert whole_word("ed", unigram) == ""
    assert whole_word("ed", train_tokenizer(texts, "words", 40)) == "ed"


def test_scaling_keeps_directions_and_gives_the_variance_of_a_new_table() -> None:
    """One factor for all, also where there is nothing to scale."""
    rows = np.array([[3.0, 4.0], [0.0, 1.0]], np.float32)
    after = scaled(rows)
    assert np.mean(after**2) == pytest.approx(0.5)
    np.testing.assert_allclose(after / after[1, 1], rows)
    assert not scaled(np.zeros((2, 2), np.float32)).any()


def test_a_file_without_a_known_word_is_an_error(tmp_path: Path) -> None:
    """It would train as if no vectors had been asked for."""
    write_vectors(tmp_path / "v.txt", ["nothing"])
    with pytest.raises(TrainingError, match=r"v\.txt: has a vector for no word of the vocab"):
        prepared(tmp_path, vectors={"file": str(tmp_path / "v.txt")})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": {"frozen": True}}, r"vectors\.file: missing"),
        ({"vectors": {"file": "v"}, "start": "x"}, r"vectors\.file: is for new models"),
        ({"vectors": {"file": "v", "tables": "source"}}, r"vectors\.tables: 'source', but there"),
        ({"vectors": {"file": "v"}, "tokenizer": {"kind": "bytes"}}, "kind 'bytes' are no words"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Before any file is read."""
    with pytest.raises(TrainingError, match=message):
        small_recipe(tmp_path, **changes)
