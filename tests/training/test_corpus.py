import numpy as np
import pytest

from seq2edge.errors import InputError, TrainingError
from seq2edge.training.corpus import TooLong, open_corpus, prepare_corpus


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
