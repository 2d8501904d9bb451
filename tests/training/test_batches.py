import itertools

import numpy as np
import pytest

from seq2edge.training.batches import Plan, cut
from seq2edge.training.corpus import Corpus
from seq2edge.training.text_files import SkippedLines


def corpus_of(*columns, files=None):
    """A corpus in memory."""
    return Corpus(
        ids=tuple(np.zeros(sum(c), dtype=np.uint32) for c in columns),
        ends=tuple(np.cumsum(c, dtype=np.int64) for c in columns),
        files=files or (len(columns[0]),),
        bad=SkippedLines(),
    )


@pytest.fixture
def corpus():
    """700 rows of random lengths."""
    rng = np.random.default_rng(0)
    return corpus_of(rng.integers(1, 40, 700), rng.integers(1, 20, 700))


def test_an_epoch_has_every_row_once(corpus):
    """An epoch has every row once."""
    rows = np.concatenate(list(Plan(corpus=corpus, tokens=300, seed=1).epoch(0)))
    assert sorted(rows) == list(range(700))


def test_no_batch_is_larger_than_asked_when_padded(corpus):
    """No batch is larger than asked when padded."""
    for rows in Plan(corpus=corpus, tokens=300, seed=1).epoch(0):
        longest = sum(int(corpus.lengths_of(rows, column).max()) for column in (0, 1))
        assert len(rows) * longest <= 300


def test_rows_of_a_batch_are_of_like_length(corpus):
    """Rows of a batch are of like length."""
    padding = used = 0
    for rows in Plan(corpus=corpus, tokens=300, seed=1).epoch(0):
        total = corpus.lengths_of(rows) + corpus.lengths_of(rows, 1)
        used += int(total.sum())
        padding += int(total.max() * len(rows) - total.sum())
    assert padding < 0.15 * used


def test_the_plan_is_the_same_from_any_step_on(corpus):
    """The plan is the same from any step on."""
    plan = Plan(corpus=corpus, tokens=300, seed=1)
    whole = list(itertools.islice(plan.steps(), 150))
    rest = list(itertools.islice(plan.steps(90), 60))
    assert [(e, r.tolist()) for e, r in whole[90:]] == [(e, r.tolist()) for e, r in rest]
    assert whole[-1][0] > 0
    assert whole[0][1].tolist() == next(plan.epoch(0)).tolist()


def test_seeds_and_epochs_have_other_orders(corpus):
    """Seeds and epochs have other orders."""
    first = next(Plan(corpus=corpus, tokens=300, seed=1).epoch(0)).tolist()
    assert first != next(Plan(corpus=corpus, tokens=300, seed=2).epoch(0)).tolist()
    assert first != next(Plan(corpus=corpus, tokens=300, seed=1).epoch(1)).tolist()


def test_weights_say_how_often_a_files_rows_are_read():
    """Weights say how often a files rows are read."""
    corpus = corpus_of([1] * 30, files=(10, 20))
    plan = Plan(corpus=corpus, tokens=5, seed=0, weights=(2.5, 0.5))
    rows = np.concatenate(list(plan.epoch(0)))
    assert (rows < 10).sum() == 25
    assert (rows >= 10).sum() == 10
    assert np.bincount(rows)[:10].max() == 3


def test_a_row_longer_than_a_batch_stands_alone():
    """A row longer than a batch stands alone."""
    corpus = corpus_of([3, 50, 3])
    batches = cut(np.array([0, 2, 1]), corpus, 10)
    assert [rows.tolist() for rows in batches] == [[0, 2], [1]]
