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
    """Rows come back in any order."""
    corpus = prepared(tmp_path, "ab\tx\nc\tyy\ndef\tz\n")
    assert len(corpus) == 3
    assert corpus.row(2).tolist() == [100, 101, 102]
    assert corpus.row(0).tolist() == [97, 98]
    assert [corpus.row(i, 1).tolist() for i in range(3)] == [[1], [2], [1]]
    assert corpus.lengths().tolist() == [2, 1, 3]
    assert corpus.lengths_of(np.array([2, 0])).tolist() == [3, 2]


def test_an_opened_corpus_is_the_prepared_one(tmp_path):
    """An opened corpus is the prepared one."""
    prepared(tmp_path, "ab\tx\nlong\ty\n")
    corpus = open_corpus(tmp_path / "corpus")
    assert corpus.row(0).tolist() == [97, 98]
    assert corpus.files == (1,)
    assert corpus.bad.counts == {"longer than the model's positions": 1}


def test_a_limit_of_rows_is_kept(tmp_path):
    """A limit of rows is kept."""
    assert len(prepared(tmp_path, "a\tx\n" * 9, rows=4)) == 4


def test_an_unknown_label_is_named_with_its_line(tmp_path):
    """An unknown label is named with its line."""
    with pytest.raises(TrainingError, match=r"a.tsv:2: odd is unknown"):
        prepared(tmp_path, "a\tx\nodd\ty\n")
    assert not (tmp_path / "corpus").exists()


def test_a_file_without_a_usable_row_is_refused(tmp_path):
    """A file without a usable row is refused."""
    with pytest.raises(TrainingError, match=r"no row that can be used, 1 lines left out"):
        prepared(tmp_path, "long\tx\n")


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    """A full disk is said and leaves nothing."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seq2edge.training.corpus._Column.add", full)
    with pytest.raises(TrainingError, match=r"corpus: No space left on device, free some space"):
        prepared(tmp_path, "a\tx\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tsv"]


def test_a_damaged_corpus_is_named(tmp_path):
    """A damaged corpus is named."""
    prepared(tmp_path, "a\tx\n")
    (tmp_path / "corpus" / "source.ids").unlink()
    with pytest.raises(TrainingError, match="not a prepared corpus"):
        open_corpus(tmp_path / "corpus")
