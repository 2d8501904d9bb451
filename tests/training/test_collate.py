import numpy as np
import pytest
import torch

from seq2edge.training.batches import Plan
from seq2edge.training.collate import IGNORED, Collator, StepBatches
from seq2edge.training.corpus import Corpus
from seq2edge.training.recipe import DenoiseRecipe
from seq2edge.training.text_files import SkippedLines


def corpus_of(*columns):
    """A corpus in memory."""
    return Corpus(
        ids=tuple(np.concatenate(rows).astype(np.uint32) for rows in columns),
        ends=tuple(np.cumsum([len(r) for r in rows]) for rows in columns),
        files=(len(columns[0]),),
        bad=SkippedLines(),
    )


def collator_of(objective, *columns, special=()):
    """A collator on rows in memory."""
    return Collator(
        objective=objective,
        corpus=corpus_of(*columns),
        start=1,
        end=2,
        special=special,
        denoise=DenoiseRecipe(density=0.3),
    )


def test_a_decoder_reads_the_answer_one_token_late():
    """A decoder reads the answer one token late."""
    collator = collator_of("seq2seq", [[5, 6, 2], [7, 2]], [[8, 2], [9, 10, 2]])
    batch = collator.collate([collator.example(0, 0), collator.example(1, 0)], 1.0)
    assert batch["source"].tolist() == [[5, 6, 2], [7, 2, 0]]
    assert batch["source_length"].tolist() == [3, 2]
    assert batch["tokens"].tolist() == [[1, 8, 0], [1, 9, 10]]
    assert batch["labels"].tolist() == [[8, 2, IGNORED], [9, 10, 2]]


def test_a_causal_model_predicts_every_next_token():
    """A causal model predicts every next token."""
    collator = collator_of("causal", [[1, 5, 6, 2]])
    batch = collator.collate([collator.example(0, 0)], 1.0)
    assert batch["tokens"].tolist() == [[1, 5, 6]]
    assert batch["labels"].tolist() == [[5, 6, 2]]


def test_a_classifier_has_one_label_a_row():
    """A classifier has one label a row."""
    collator = collator_of("classify", [[5, 2], [6, 7, 2]], [[1], [0]])
    batch = collator.collate([collator.example(0, 0), collator.example(1, 0)], 1.0)
    assert batch["labels"].tolist() == [1, 0]


@pytest.mark.parametrize("objective", ["denoise", "infill"])
def test_corruption_is_new_in_every_epoch_and_the_same_when_repeated(objective):
    """Corruption is new in every epoch and the same when repeated."""
    collator = collator_of(objective, [list(range(10, 60))], special=tuple(range(900, 950)))
    once, again, later = (collator.example(0, epoch) for epoch in (0, 0, 1))
    assert once[0].tolist() == again[0].tolist()
    assert once[0].tolist() != later[0].tolist()
    assert once[0][-1] == once[1][-1] == 2


def test_infilling_answers_with_the_whole_text():
    """Infilling answers with the whole text."""
    collator = collator_of("infill", [[10, 11, 12, 13]], special=(4,))
    assert collator.example(0, 0)[1].tolist() == [10, 11, 12, 13, 2]


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (1, 3), (2, 2)])
def test_the_shares_of_a_step_add_up_to_its_mean(processes, accumulate):
    """The shares of a step add up to its mean."""
    rows = [[5] * n for n in (3, 4, 2, 6, 5, 1, 2)]
    collator = collator_of("seq2seq", rows, rows)
    plan = Plan(corpus=collator.corpus, tokens=60, seed=0)
    total: dict[int, list[float]] = {}
    for rank in range(processes):
        batches = StepBatches(plan, collator, first=0, steps=4, accumulate=accumulate)
        batches.rank, batches.processes = rank, processes
        for turn, batch in enumerate(batches):
            taught = int((batch["labels"] != IGNORED).sum())
            total.setdefault(turn // accumulate, []).append(taught * float(batch["scale"]))
    parts = processes * accumulate
    assert len(total) == 4
    for shares in total.values():
        assert len(shares) == parts
        assert sum(shares) == pytest.approx(parts)


def test_worker_processes_keep_the_order_of_batches():
    """Worker processes keep the order of batches."""
    rows = [[5 + n] * (n % 5 + 1) for n in range(40)]
    collator = collator_of("seq2seq", rows, rows)
    plan = Plan(corpus=collator.corpus, tokens=30, seed=0)

    def sources(workers):
        batches = StepBatches(plan, collator, first=2, steps=12, accumulate=1)
        loader = torch.utils.data.DataLoader(batches, batch_size=None, num_workers=workers)
        return [batch["source"].tolist() for batch in loader]

    assert sources(2) == sources(0)
