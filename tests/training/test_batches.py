"""Rows of steps and the tensors they become."""

import itertools

import numpy as np
import pytest
import torch

from seq2edge.training.batches import IGNORED, Collator, Plan, StepBatches, cut
from seq2edge.training.corpus import Corpus
from seq2edge.training.recipe import DenoiseRecipe
from seq2edge.training.text_files import SkippedLines
from seq2edge.training.train_tokenizer import TokenIds


def corpus_of(*columns, files=None):
    """A corpus in memory of these rows."""
    return Corpus(
        ids=tuple(np.concatenate(rows).astype(np.uint32) for rows in columns),
        ends=tuple(np.cumsum([len(row) for row in rows], dtype=np.int64) for rows in columns),
        files=files or (len(columns[0]),),
        skipped=SkippedLines(),
    )


def zeros(lengths):
    """Rows of these lengths."""
    return [np.zeros(length) for length in lengths]


@pytest.fixture
def corpus():
    """700 rows of random lengths."""
    rng = np.random.default_rng(0)
    return corpus_of(zeros(rng.integers(1, 40, 700)), zeros(rng.integers(1, 20, 700)))


def test_an_epoch_has_every_row_once(corpus):
    """Without weights, the batches of an epoch hold each row number exactly once."""
    rows = np.concatenate(list(Plan(corpus=corpus, tokens=300, seed=1).epoch(0)))
    assert sorted(rows) == list(range(700))


def test_no_batch_is_larger_than_asked_when_padded(corpus):
    """Rows times (longest source + longest target) stays within the budget of tokens."""
    for rows in Plan(corpus=corpus, tokens=300, seed=1).epoch(0):
        longest = sum(int(corpus.lengths_of(rows, column).max()) for column in (0, 1))
        assert len(rows) * longest <= 300


def test_rows_of_a_batch_are_of_like_length(corpus):
    """Sorting inside pools keeps the padding under 15 % of the tokens that count."""
    padding = used = 0
    for rows in Plan(corpus=corpus, tokens=300, seed=1).epoch(0):
        total = corpus.lengths_of(rows) + corpus.lengths_of(rows, 1)
        used += int(total.sum())
        padding += int(total.max() * len(rows) - total.sum())
    assert padding < 0.15 * used


def test_the_plan_is_the_same_from_any_step_on(corpus):
    """Entering at step 90, in the second epoch or later, gives the rows of the whole plan."""
    plan = Plan(corpus=corpus, tokens=300, seed=1)
    whole = list(itertools.islice(plan.steps(), 150))
    rest = list(itertools.islice(plan.steps(90), 60))
    assert [(e, r.tolist()) for e, r in whole[90:]] == [(e, r.tolist()) for e, r in rest]
    assert whole[-1][0] > 0
    assert whole[0][1].tolist() == next(plan.epoch(0)).tolist()


def test_seeds_and_epochs_have_other_orders(corpus):
    """The first batch changes with the seed and with the epoch."""
    first = next(Plan(corpus=corpus, tokens=300, seed=1).epoch(0)).tolist()
    assert first != next(Plan(corpus=corpus, tokens=300, seed=2).epoch(0)).tolist()
    assert first != next(Plan(corpus=corpus, tokens=300, seed=1).epoch(1)).tolist()


def test_weights_say_how_often_a_files_rows_are_read():
    """2.5 reads each row twice and half of them a third time, 0.5 half of the rows."""
    corpus = corpus_of(zeros([1] * 30), files=(10, 20))
    plan = Plan(corpus=corpus, tokens=5, seed=0, weights=(2.5, 0.5))
    rows = np.concatenate(list(plan.epoch(0)))
    assert (rows < 10).sum() == 25
    assert (rows >= 10).sum() == 10
    assert np.bincount(rows)[:10].max() == 3


def test_a_row_longer_than_a_batch_stands_alone():
    """It exceeds the budget, but is not left out."""
    corpus = corpus_of(zeros([3, 50, 3]))
    batches = cut(np.array([0, 2, 1]), corpus, 10)
    assert [rows.tolist() for rows in batches] == [[0, 2], [1]]


def collator_of(objective, *columns, special=()):
    """A collator on rows in memory."""
    return Collator(
        objective=objective,
        corpus=corpus_of(*columns),
        ids=TokenIds(decoder_start_id=1, eos_id=2, sentinel_ids=special),
        denoise=DenoiseRecipe(density=0.3),
    )


def test_a_decoder_reads_the_answer_one_token_late():
    """Its input is the start id and the target without its last token; padding has no label."""
    collator = collator_of("seq2seq", [[5, 6, 2], [7, 2]], [[8, 2], [9, 10, 2]])
    batch = collator.collate([collator.example(0, 0), collator.example(1, 0)], 1.0)
    assert batch["source"].tolist() == [[5, 6, 2], [7, 2, 0]]
    assert batch["source_length"].tolist() == [3, 2]
    assert batch["tokens"].tolist() == [[1, 8, 0], [1, 9, 10]]
    assert batch["labels"].tolist() == [[8, 2, IGNORED], [9, 10, 2]]


def test_a_causal_model_predicts_every_next_token():
    """Inputs and labels are one row, shifted by a token."""
    collator = collator_of("causal", [[1, 5, 6, 2]])
    batch = collator.collate([collator.example(0, 0)], 1.0)
    assert batch["tokens"].tolist() == [[1, 5, 6]]
    assert batch["labels"].tolist() == [[5, 6, 2]]


def test_a_classifier_has_one_label_a_row():
    """The target column's only number is the label, not padded to a sequence."""
    collator = collator_of("classify", [[5, 2], [6, 7, 2]], [[1], [0]])
    batch = collator.collate([collator.example(0, 0), collator.example(1, 0)], 1.0)
    assert batch["labels"].tolist() == [1, 0]


@pytest.mark.parametrize("objective", ["denoise", "infill"])
def test_corruption_is_new_in_every_epoch_and_the_same_when_repeated(objective):
    """Row, epoch and seed decide it, so that a resumed training sees it again."""
    collator = collator_of(objective, [list(range(10, 60))], special=tuple(range(900, 950)))
    once, again, later = (collator.example(0, epoch) for epoch in (0, 0, 1))
    assert once[0].tolist() == again[0].tolist()
    assert once[0].tolist() != later[0].tolist()
    assert once[0][-1] == once[1][-1] == 2


def test_infilling_answers_with_the_whole_text():
    """The target is the uncorrupted text and the end."""
    collator = collator_of("infill", [[10, 11, 12, 13]], special=(4,))
    assert collator.example(0, 0)[1].tolist() == [10, 11, 12, 13, 2]


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (1, 3), (2, 2)])
def test_the_shares_of_a_step_add_up_to_its_mean(processes, accumulate):
    """Scales times target tokens sum to the number of shares, also for shares without a row."""
    rows = [[5] * n for n in (3, 4, 2, 6, 5, 1, 2)]
    collator = collator_of("seq2seq", rows, rows)
    plan = Plan(corpus=collator.corpus, tokens=60, seed=0)
    total: dict[int, list[float]] = {}
    for rank in range(processes):
        batches = StepBatches(
            plan, collator, first=0, steps=4, accumulate=accumulate, rank=rank, processes=processes
        )
        for turn, batch in enumerate(batches):
            count = int((batch["labels"] != IGNORED).sum())
            total.setdefault(turn // accumulate, []).append(count * float(batch["scale"]))
    parts = processes * accumulate
    assert len(total) == 4
    for shares in total.values():
        assert len(shares) == parts
        assert sum(shares) == pytest.approx(parts)


def test_worker_processes_keep_the_order_of_batches():
    """Two workers, which take turns, give the batches that no worker gives."""
    rows = [[5 + n] * (n % 5 + 1) for n in range(40)]
    collator = collator_of("seq2seq", rows, rows)
    plan = Plan(corpus=collator.corpus, tokens=30, seed=0)

    def sources(workers):
        batches = StepBatches(plan, collator, first=2, steps=12, accumulate=1)
        loader = torch.utils.data.DataLoader(batches, batch_size=None, num_workers=workers)
        return [batch["source"].tolist() for batch in loader]

    assert sources(2) == sources(0)
