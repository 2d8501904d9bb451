"""Each token's alignment is that of the step it was chosen in, whichever search chose it."""

from __future__ import annotations

import numpy as np
import pytest

from seq2edge.errors import OptionError
from seq2edge.runtime.fake import FakeBackend, random_answer
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.request import Request
from seq2edge.runtime.scheduler import Scheduler, decode

VOCAB = 20
SOURCES = [(3, 4, 5, 6, 7), (8, 9), (10, 11, 12)]
KINDS = {
    "greedy": {},
    "drawn": {"do_sample": True, "seed": 2, "num_return_sequences": 3},
    "beams": {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.0},
    "drawn beams": {"num_beams": 3, "do_sample": True, "seed": 1, "num_return_sequences": 2},
}


def weigh(history, source):
    """Weights that tell every history and source from the others."""
    drawn = np.random.default_rng([len(history), *history, *source]).random(len(source))
    return (drawn / drawn.sum()).astype(np.float32)


def request(source, **options):
    """Eight tokens at most behind one."""
    options = {"alignments": True} | options
    return Request(
        prompt=(1,),
        source=source,
        options=DecodeOptions(eos_token_id=(2,), **options),
        max_new_tokens=8,
    )


def check(source, sequence):
    """One line an id, of the source's own positions, without what pads it."""
    expected = [weigh((1, *sequence.ids[:i]), source) for i in range(len(sequence.ids))]
    np.testing.assert_array_equal(sequence.alignment, np.array(expected))


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("top_k", [0, 12])
@pytest.mark.parametrize("kind", KINDS)
def test_every_token_has_what_its_step_attended_to(kind, top_k, running):
    """In batches of sources of different lengths, beside a request that does not ask."""
    for seed in range(3):
        backend = FakeBackend(
            random_answer(VOCAB, seed=seed), top_k=top_k, running=running, alignment=weigh
        )
        requests = [request(source, **KINDS[kind]) for source in SOURCES]
        plain = request(SOURCES[0], alignments=False, **KINDS[kind])
        *found, other = decode(backend, [*requests, plain])
        for source, sequences in zip(SOURCES, found, strict=True):
            for sequence in sequences:
                check(source, sequence)
        assert [s.ids for s in other] == [s.ids for s in found[0]]
        assert [s.alignment for s in other] == [None] * len(other)
        assert other == found[0]  # the weights do not count


class Parrot:
    """Guesses what was said without it, wrong at every third token."""

    def __init__(self, ids):
        self._ids = ids

    def guess(self, ids, room):
        """See Drafter."""
        guesses = self._ids[len(ids) - 1 : len(ids) + 3]
        return [token if i % 3 else token + 1 for i, token in enumerate(guesses, 1)][:room]

    def verified(self, guessed, right):
        """See Drafter."""


def test_verified_tokens_have_theirs():
    """Of the lines that one step answers, each token its own."""
    source = SOURCES[0]
    backend = FakeBackend(random_answer(VOCAB, seed=1), alignment=weigh)
    options = {"min_new_tokens": 8}
    (plain,) = decode(backend, [request(source, **options)])[0]
    guessing = request(source, **options)
    object.__setattr__(guessing, "drafter", Parrot(list(plain.ids)))
    (sequence,) = decode(backend, [guessing])[0]
    assert sequence.ids == plain.ids
    assert sequence.usage.accepted_tokens > 0
    check(source, sequence)


@pytest.mark.parametrize("beams", [1, 3])
def test_what_was_cancelled_has_those_of_its_tokens(beams):
    """Also of beams that are open, and of nothing at all."""
    scheduler = Scheduler(FakeBackend(random_answer(VOCAB, seed=1), alignment=weigh))
    group = scheduler.submit(request(SOURCES[0], num_beams=beams, min_new_tokens=7))
    for _ in range(4):
        scheduler.step()
    group.cancel()
    scheduler.run()
    (result,) = group.results()
    assert len(result.ids) == 4
    check(SOURCES[0], result)


def test_they_are_refused_where_the_backend_gives_none():
    """By name."""
    with pytest.raises(OptionError, match="alignments: this backend gives none"):
        decode(FakeBackend(random_answer(VOCAB)), [request(SOURCES[0])])
    with pytest.raises(OptionError, match="alignments: 1, needs True or False"):
        DecodeOptions(alignments=1)
