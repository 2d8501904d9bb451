"""Embeddings that start from word vectors, and every published form of their files."""

from __future__ import annotations

import gzip
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
from seq2edge.training.run_folder import prepare_run
from seq2edge.training.train import train
from seq2edge.training.train_tokenizer import train_tokenizer
from seq2edge.training.vectors import (
    fill_vectors,
    prepare_vectors,
    read_vectors,
    scaled,
    whole_word,
)


def write_vectors(path: Path, words: list[str], width: int = 16) -> dict[str, np.ndarray]:
    """A GloVe file of random vectors."""
    rng = np.random.default_rng(0)
    vectors = {word: rng.normal(size=width).astype(np.float32) for word in words}
    rows = [f"{word} {' '.join(map(str, row))}\n" for word, row in vectors.items()]
    path.write_text("".join(rows), encoding="utf-8")
    return vectors


def prepared(folder: Path, said: list[str] | None = None, **changes: Any) -> Any:
    """A run whose vectors were looked up."""
    run = prepare_run(small_recipe(folder, **changes), folder / "run", lambda _: None)
    prepare_vectors(run, said.append if said is not None else lambda _: None)
    return run


def test_tokens_get_the_vectors_of_their_words_and_others_stay(tmp_path: Path) -> None:
    """The rows of known words are the file's up to one factor; the rest is the new model's."""
    vectors = write_vectors(tmp_path / "glove.txt", [*WORDS[:4], "unseen"])
    said: list[str] = []
    run = prepared(tmp_path, said, vectors={"file": str(tmp_path / "glove.txt")})
    model = new_model(run.setup.dims, 0)
    before = model.embedding.weight.detach().clone()
    fill_vectors(model, run)
    after = model.embedding.weight.detach()
    tokenizer = Tokenizer.from_file(str(run.folder / "tokenizer" / "tokenizer.json"))
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
    run = prepared(tmp_path, **changes)
    with np.load(run.folder / "vectors.npz") as values:
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
    run = prepared(
        tmp_path,
        said,
        data={"train": [pairs]},
        tokenizer={"target": "words", "target_size": 200},
        vectors={"file": str(tmp_path / "v.txt"), "tables": chosen, "frozen": True},
    )
    model = new_model(run.setup.dims, 0)
    fill_vectors(model, run)
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


VECTORS = {b"red": [1.0, 2.0, 3.0], b". .": [0.5, -1.0, 2.5], "grün".encode(): [4.0, 5.0, 6.0]}
WANTED = {b"red", b". .", "grün".encode(), b"never"}


def text_file(header: str = "") -> bytes:
    """The vectors as lines."""
    rows = [word + b" " + " ".join(map(str, row)).encode() for word, row in VECTORS.items()]
    return header.encode() + b"\n".join(rows) + b"\n"


def binary_file(newline: bytes = b"", count: int = 2) -> bytes:
    """The vectors whose words have no space, as word2vec's own program writes them."""
    rows = [(word, row) for word, row in VECTORS.items() if b" " not in word]
    packed = [word + b" " + np.array(row, "<f4").tobytes() + newline for word, row in rows]
    return f"{count} 3\n".encode() + b"".join(packed)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("glove.txt", text_file()),
        ("word2vec.txt", text_file("3 3\n")),
        ("fasttext.vec.gz", gzip.compress(text_file("3 3\n"), mtime=0)),
        ("news.bin", binary_file()),
        ("news.bin", binary_file(b"\n")),
        ("news.bin.gz", gzip.compress(binary_file(), mtime=0)),
    ],
)
def test_every_form_gives_the_same_vectors(tmp_path: Path, name: str, data: bytes) -> None:
    """Text with and without a first line, binary, compressed; only the wanted words are kept."""
    (tmp_path / name).write_bytes(data)
    found = read_vectors(tmp_path / name, WANTED - {b"red"}, 3)
    kept = {word for word in VECTORS if ".bin" not in name or b" " not in word} - {b"red"}
    assert set(found) == kept
    for word in kept:
        np.testing.assert_array_equal(found[word], np.array(VECTORS[word], np.float32))


def test_the_first_of_two_vectors_of_a_word_is_taken(tmp_path: Path) -> None:
    """As in other readers of these files."""
    (tmp_path / "twice.txt").write_text("red 1 2 3\nred 4 5 6\n")
    assert read_vectors(tmp_path / "twice.txt", {b"red"}, 3)[b"red"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("v.txt", b"red 1 2\n", r"v\.txt: its vectors have width 2, the model has 3; set model\."),
        ("v.txt", b"4 2\nred 1 2\n", "have width 2, the model has 3"),
        ("v.bin", b"4 2\nred ", "have width 2, the model has 3"),
        ("v.txt", b"", "have width -1"),
        ("v.txt", text_file("4 3\n"), r"holds 3 vectors, its first line says 4; fetch it again"),
        ("v.txt", text_file("2 3\n"), r"holds 3 vectors, its first line says 2"),
        ("v.txt", b"red 1 2 3\ngrey 1 2\n", r"v\.txt:2: 2 numbers, expected 3"),
        ("v.txt", b"grey 1 2 3\nred 1 x 3\n", r"v\.txt:2: not numbers: .*x"),
        ("v.txt", b"red 1 nan 3\n", r"v\.txt:1: a number is not finite"),
        ("v.bin", binary_file()[:-1], r"breaks at byte 26 in vector 2 of 2; fetch it again"),
        ("v.bin", binary_file(count=3), r"in vector 3 of 3"),
        ("v.bin", binary_file(count=1), r"goes on at byte 20 after 1 vectors"),
        ("v.bin", b"\x00\x01", r"begins with b'.x00.x01', not with a count"),
        ("v.bin", b"1 3\n" + b"x" * 9000, r"breaks at byte 4,\d+ in vector 1"),
        ("v.bin", b"1 3\nred " + np.full(3, np.inf, "<f4").tobytes(), "byte 8: a number is not f"),
        ("v.txt.gz", gzip.compress(text_file(), mtime=0)[:-9], r"v\.txt\.gz: cannot be read: "),
        ("v.zip", b"PK", r"v\.zip: an archive, unpack it"),
    ],
)
def test_broken_files_are_named_with_the_place(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    """Another width, a wrong count, a short file, and what is no number."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TrainingError, match=message):
        read_vectors(tmp_path / name, WANTED, 3)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Like every file of a recipe."""
    with pytest.raises(TrainingError, match=r"none\.txt: cannot be read: .*No such file"):
        read_vectors(tmp_path / "none.txt", WANTED, 3)
