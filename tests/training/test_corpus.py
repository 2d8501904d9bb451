"""Tokenized rows: how lines become them, and how they are kept."""

import dataclasses

import numpy as np
import pytest
import small_recipes

from seq2edge.errors import InputError, TrainingError
from seq2edge.training.corpus import TooLong, open_corpus, prepare_corpus, row_tokenizer
from seq2edge.training.train_tokenizer import TokenIds


def codes(_, row):
    """Character codes, and what may go wrong."""
    if "long" in row[0]:
        raise TooLong
    if "odd" in row[0]:
        raise InputError("odd is unknown")
    yield [ord(c) for c in row[0]], [len(row[1])]


def prepared(tmp_path, text, **options):
    """A corpus of this text."""
    path = tmp_path / "a.tsv"
    path.write_text(text, encoding="utf-8")
    return prepare_corpus(tmp_path / "corpus", [path], codes, columns=2, texts=2, **options)


def test_rows_come_back_in_any_order(tmp_path):
    """Ids and lengths of single rows and columns are read at random from the mapped files."""
    corpus = prepared(tmp_path, "ab\tx\nc\tyy\ndef\tz\n")
    assert len(corpus) == 3
    assert corpus.row(2).tolist() == [100, 101, 102]
    assert corpus.row(0).tolist() == [97, 98]
    assert [corpus.row(i, 1).tolist() for i in range(3)] == [[1], [2], [1]]
    assert corpus.lengths().tolist() == [2, 1, 3]
    assert corpus.lengths_of(np.array([2, 0])).tolist() == [3, 2]


def test_an_opened_corpus_is_the_prepared_one(tmp_path):
    """Rows, counts of each file and what was left out come back from the disk."""
    prepared(tmp_path, "ab\tx\nlong\ty\n")
    corpus = open_corpus(tmp_path / "corpus")
    assert corpus.row(0).tolist() == [97, 98]
    assert corpus.files == (1,)
    assert corpus.skipped.counts == {"longer than the model's positions": 1}


def test_a_limit_of_rows_is_kept(tmp_path):
    """No more than `rows` of a file are written."""
    assert len(prepared(tmp_path, "a\tx\n" * 9, rows=4)) == 4


def test_an_unknown_label_is_named_with_its_line(tmp_path):
    """The error of a row gets file and line, and no corpus is left."""
    with pytest.raises(TrainingError, match=r"a.tsv:2: odd is unknown"):
        prepared(tmp_path, "a\tx\nodd\ty\n")
    assert not (tmp_path / "corpus").exists()


def test_a_file_without_a_usable_row_is_refused(tmp_path):
    """The error says how many lines were left out, and why."""
    with pytest.raises(TrainingError, match=r"no row that can be used, 1 lines left out"):
        prepared(tmp_path, "long\tx\n")


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    """No corpus and no partial folder stay behind."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seq2edge.training.corpus.CorpusWriter.add", full)
    with pytest.raises(TrainingError, match=r"corpus: No space left on device, free some space"):
        prepared(tmp_path, "a\tx\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tsv"]


def test_a_damaged_corpus_is_named(tmp_path):
    """A missing file is an error about the corpus's folder."""
    prepared(tmp_path, "a\tx\n")
    (tmp_path / "corpus" / "source.ids").unlink()
    with pytest.raises(TrainingError, match="not a prepared corpus"):
        open_corpus(tmp_path / "corpus")


class Letters:
    """A tokenizer of letters: `a` is 1; texts end with 0."""

    def encode(self, text, *, special_tokens=True):
        """The letters, and the end."""
        return [ord(letter) - 96 for letter in text] + [0] * special_tokens

    def encode_target(self, text):
        """The letters alone."""
        return self.encode(text, special_tokens=False)


def tokenized(folder, rows, *, objective="seq2seq", labels=(), tags=(), **changes):
    """The rows of ids of these texts, of at most 24 tokens."""
    recipe = small_recipes.spelling(folder, **changes)
    recipe = dataclasses.replace(
        recipe, objective=objective, tokenizer=dataclasses.replace(recipe.tokenizer, target="")
    )
    ids = TokenIds(decoder_start_id=9, eos_id=0, forced_ids=(7,))
    tokenize = row_tokenizer(recipe, Letters(), ids, labels=labels, tags=tags)
    return [[list(map(list, made)) for made in tokenize(0, row)] for row in rows]


def test_a_pair_becomes_source_and_target_with_what_is_forced_first(tmp_path):
    """The tag stands before the source; both sides end with the end."""
    assert tokenized(tmp_path, [("a", "bc")], tags=("d",)) == [[[[4, 1, 0], [7, 2, 3, 0]]]]


def test_a_row_that_does_not_fit_is_left_out_or_cut_with_its_end(tmp_path):
    """24 tokens fit; of a cut row both sides keep their end, and the shorter one is whole."""
    fits = ("a" * 23, "b")
    assert len(tokenized(tmp_path, [fits])[0][0][0]) == 24
    for row in (("a" * 24, "b"), ("a", "b" * 23)):
        with pytest.raises(TooLong):
            tokenized(tmp_path, [row])
    long = tokenized(tmp_path, [("a" * 30, "b"), ("a", "b" * 30)], data__cut=True)
    assert long[0] == [[[1] * 23 + [0], [7, 2, 0]]]
    assert long[1] == [[[1, 0], [7] + [2] * 22 + [0]]]


def test_a_label_becomes_its_number(tmp_path):
    """Of the labels in order; one that is not among them is an error."""
    options = {"objective": "classify", "labels": ("no", "yes")}
    assert tokenized(tmp_path, [("a", "yes")], **options) == [[[[1, 0], [1]]]]
    with pytest.raises(InputError, match="the label 'maybe' is unknown, known: no, yes"):
        tokenized(tmp_path, [("a", "maybe")], **options)


@pytest.mark.parametrize(("objective", "room"), [("causal", 25), ("denoise", 22)])
def test_a_long_text_becomes_pieces_that_fit(tmp_path, objective, room):
    """One more than the positions where the next token is learnt, two less where ids are added."""
    (pieces,) = tokenized(tmp_path, [("a" * (2 * room + 5),)], objective=objective)
    assert [len(piece[0]) for piece in pieces] == [room, room, 5 + (objective == "causal")]
