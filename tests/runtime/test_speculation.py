"""Guessed tokens: whoever guesses and however wrongly, the tokens are those of no guess at all."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from seq2edge.errors import OptionError
from seq2edge.runtime.fake import FakeBackend, random_answer
from seq2edge.runtime.model import load
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.request import Request
from seq2edge.runtime.scheduler import Scheduler, decode
from seq2edge.runtime.speculation import PromptLookup

VOCAB = 30
KINDS = {
    "greedy": {},
    "drawn": {"do_sample": True, "seed": 5, "top_k": 8},
    "filtered": {"no_repeat_ngram_size": 2, "min_new_tokens": 3, "begin_suppress_tokens": (4,)},
    "forced": {"forced_bos_token_id": 7, "forced_eos_token_id": 2},
}


class Oracle:
    """Guesses what is right, but for a part of the tokens."""

    def __init__(self, tokens, wrong, seed=0):
        self.tokens, self.wrong = tokens, wrong
        self.rng = np.random.default_rng(seed)
        self.start = None
        self.counts = []

    def guess(self, ids, room):
        """See Drafter."""
        if self.start is None:
            self.start = len(ids) - 1
        done = len(ids) - self.start
        right = self.tokens[done : done + min(room, int(self.rng.integers(0, 6)))]
        return [(token + 1) % VOCAB if self.rng.random() < self.wrong else token for token in right]

    def verified(self, guessed, right):
        """See Drafter."""
        self.counts.append((guessed, right))


def request(*, encoder=False, drafter=None, limit=20, **options):
    """One that begins with three tokens, or reads three."""
    return Request(
        prompt=[1] if encoder else [5, 6, 7],
        source=[3, 9, 4] if encoder else None,
        options=DecodeOptions(eos_token_id=(2, 3), **options),
        max_new_tokens=limit,
        drafter=drafter,
    )


@pytest.mark.parametrize("top_k", [0, 12])
@pytest.mark.parametrize("encoder", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_stay_what_they_are(kind, encoder, top_k):
    """With guesses that are never, sometimes and always wrong, up to the last token."""
    for seed in range(4):
        backend = FakeBackend(random_answer(VOCAB, seed=seed, spread=3.0), top_k=top_k)
        for limit in (1, 2, 20):
            plain = request(encoder=encoder, limit=limit, **KINDS[kind])
            (alone,) = decode(backend, [plain])[0]
            for wrong in (0.0, 0.3, 1.0):
                drafter = Oracle(alone.ids, wrong)
                guessed = request(encoder=encoder, limit=limit, drafter=drafter, **KINDS[kind])
                assert decode(backend, [guessed])[0] == [alone]


def test_right_guesses_save_steps_and_are_counted():
    """20 tokens in the steps that the guesses leave."""
    backend = FakeBackend(random_answer(VOCAB, seed=1))
    options = {"min_new_tokens": 20}
    (alone,) = decode(backend, [request(**options)])[0]
    scheduler = Scheduler(backend)
    drafter = Oracle(alone.ids, wrong=0.2)
    group = scheduler.submit(request(drafter=drafter, **options))
    scheduler.run()
    assert group.results() == [alone]
    assert (group.guessed, group.right) == tuple(map(sum, zip(*drafter.counts, strict=True)))
    assert group.steps == len(alone.ids) - group.right
    assert group.steps < 16


def test_a_cache_that_stays_holds_what_was_right():
    """The prefix that another request goes on from has the tokens of its ids."""
    for seed in range(6):
        backend = FakeBackend(random_answer(VOCAB, seed=seed))
        (alone,) = decode(backend, [request()])[0]
        scheduler = Scheduler(backend)
        kept = request(drafter=Oracle(alone.ids, wrong=0.3))
        group = scheduler.submit(Request(**{**vars(kept), "keep": True}))
        scheduler.run()
        assert group.kept.cache.histories == [group.kept.ids]
        assert group.kept.ids == (5, 6, 7, *alone.ids[:-1])


def test_requests_with_guesses_and_others_share_a_scheduler():
    """Each gets what it gets alone, and the others go on in one batch."""
    backend = FakeBackend(random_answer(VOCAB, seed=2, spread=3.0))
    alone = decode(backend, [request(), request(num_beams=3)])
    scheduler = Scheduler(backend)
    groups = [
        scheduler.submit(request(drafter=Oracle(alone[0][0].ids, 0.3, seed=n), num_beams=1))
        for n in range(3)
    ]
    groups += [scheduler.submit(request()) for _ in range(3)]
    beams = scheduler.submit(request(num_beams=3))
    scheduler.run()
    assert all(group.results() == alone[0] for group in groups)
    assert beams.results() == alone[1]


def test_a_cancelled_request_ends_between_its_steps():
    """With the tokens that were verified so far."""
    backend = FakeBackend(random_answer(VOCAB, seed=1))
    options = {"min_new_tokens": 20}
    (alone,) = decode(backend, [request(**options)])[0]
    scheduler = Scheduler(backend)
    group = scheduler.submit(request(drafter=Oracle(alone.ids, wrong=0.0), **options))
    scheduler.step()
    scheduler.step()
    group.cancel()
    scheduler.run()
    (result,) = group.results()
    assert result.finish_reason == "cancelled"
    assert 1 <= len(result.ids) < 20
    assert result.ids == alone.ids[: len(result.ids)]


def copying(history, source):
    """What follows the last token's place in the source, or in the history's beginning."""
    text = source or history[:8]
    place = (len(history) - (1 if source else 8)) % len(text)
    logits = np.zeros(VOCAB)
    logits[text[place]] = 9.0
    return logits


@pytest.mark.parametrize("encoder", [True, False])
def test_looking_the_prompt_up_saves_steps_where_it_is_copied(encoder):
    """From the source of an encoder-decoder and from the prompt of a decoder-only model."""
    text = [11, 12, 13, 14, 15, 16, 17, 18]
    made = {
        "prompt": [1] if encoder else text,
        "source": text if encoder else None,
        "options": DecodeOptions(),
        "max_new_tokens": 24,
    }
    backend = FakeBackend(copying)
    alone = decode(backend, [Request(**made)])[0]
    scheduler = Scheduler(backend)
    drafter = PromptLookup(text if encoder else [], 8)
    group = scheduler.submit(Request(**made, drafter=drafter))
    scheduler.run()
    assert group.results() == alone
    assert group.steps < 0.4 * 24


@pytest.mark.parametrize(
    ("source", "ids", "guesses"),
    [
        ([], [1, 2, 3, 4, 1, 2], [3, 4, 1, 2]),
        ([], [1, 2, 3], []),
        ([], [7], []),
        ([5, 6, 7, 8], [1, 6], [7, 8, 1, 6]),
        ([5, 6, 7, 5, 6, 9], [1, 7, 5, 6], [9, 1, 7, 5]),  # the longest match
        ([], [4, 4, 4], [4]),
    ],
)
def test_what_is_looked_up(source, ids, guesses):
    """What follows the longest match of the last tokens, which are no match of themselves."""
    assert PromptLookup(source, 4).guess(np.array(ids), 10) == guesses


def test_guesses_become_fewer_after_a_wrong_one_and_more_after_right_ones():
    """And never more than there is room for."""
    lookup = PromptLookup([], 8)
    ids = np.array([*range(3, 23), 3, 4, 5])
    lengths = []
    for right in (0, 1, 2, 4, 8):
        lengths.append(len(lookup.guess(ids, 20)))
        lookup.verified(lengths[-1], min(right, lengths[-1]))
    assert lengths == [8, 1, 2, 4, 8]
    assert len(lookup.guess(ids, 3)) == 3


@pytest.fixture
def loaded(exported):
    """The model of a tiny bundle, by its name."""
    return lambda name, **options: load(exported(name)[1] / "bundle", **options)


PROMPTS = [[5, 9, 11, 5, 9, 11, 5, 9], [4], [20, 21, 22, 23, 20, 21]]


def assert_same(results, expected):
    """Equal tokens and reasons; scores as equal as several tokens at once are rounded."""
    for (ours,), (theirs,) in zip(results, expected, strict=True):
        assert dataclasses.replace(ours, score=theirs.score) == theirs
        assert ours.score == pytest.approx(theirs.score, rel=1e-5)


@pytest.mark.parametrize("name", ["llama", "bart"])
@pytest.mark.parametrize("drawn", [False, True])
def test_real_models_give_the_same_tokens_with_guesses(loaded, exported, name, drawn):
    """By prompt lookup, by a draft that always agrees and by one that seldom does."""
    model = loaded(name)
    options = model.options.replace(max_new_tokens=30, eos_token_id=(), num_beams=1)
    if drawn:
        options = options.replace(do_sample=True, seed=3)
    plain = model.generate_ids(PROMPTS, options)
    looked_up = model.generate_ids(PROMPTS, options.replace(prompt_lookup_num_tokens=6))
    assert_same(looked_up, plain)
    usage = [result[0].usage for result in looked_up]
    assert sum(each.guessed_tokens for each in usage) > 0
    assert all(each.steps == 30 - each.accepted_tokens for each in usage)

    model.use_draft(loaded(name))
    same = model.generate_ids(PROMPTS, options)
    assert_same(same, plain)
    if not drawn:
        assert all(r[0].usage.guessed_tokens == r[0].usage.accepted_tokens for r in same)
        assert all(r[0].usage.steps < 8 for r in same)
    model.use_draft(loaded({"llama": "qwen2", "bart": "marian"}[name]))
    other = model.generate_ids(PROMPTS, options)
    assert_same(other, plain)
    assert any(r[0].usage.guessed_tokens > r[0].usage.accepted_tokens for r in other)


@pytest.mark.parametrize("name", ["whisper", "moonshine"])
def test_clips_give_the_same_tokens_with_a_student_that_guesses(loaded, exported, name):
    """The draft hears with an encoder of its own; that of a student with fewer layers (an export).

    Another number of mel bands, and samples in their place, are refused.
    """
    model = loaded(name)
    rng = np.random.default_rng(5)
    shape = model.dims.source_shape
    clips = [rng.standard_normal(shape or count, dtype=np.float32) for count in (895, 9_000, 4_000)]
    options = model.options.replace(max_new_tokens=20, max_length=None, eos_token_id=())
    plain = model.transcribe_ids(clips, options)
    model.use_draft(loaded(name))
    same = model.transcribe_ids(clips, options)
    assert_same(same, plain)
    assert all(r[0].usage.guessed_tokens == r[0].usage.accepted_tokens > 10 for r in same)
    if name == "moonshine":
        with pytest.raises(
            OptionError, match=r"draft: .* reads samples; it needs what .* reads, f"
        ):
            loaded("whisper").use_draft(loaded(name))
        return
    student = load(exported(name, decoder_layers=1)[1] / "bundle", threads=1)
    model.use_draft(student)
    guessed = model.transcribe_ids(clips, options)
    assert_same(guessed, plain)
    assert sum(r[0].usage.guessed_tokens for r in guessed) > 0
    student.dims = dataclasses.replace(student.dims, mels=9)
    with pytest.raises(OptionError, match=r"reads features \(9, 100\); it needs .*\(8, 100\)"):
        model.use_draft(student)


def test_what_cannot_be_guessed_is_refused_by_name(loaded, exported):
    """Beams, graphs that answer one token alone, two who guess."""
    model = loaded("llama")
    lookup = model.options.replace(prompt_lookup_num_tokens=4)
    with pytest.raises(OptionError, match="prompt_lookup_num_tokens: 4 with num_beams 2"):
        lookup.replace(num_beams=2)
    with pytest.raises(OptionError, match="prompt_lookup_num_tokens: -1, needs an integer of at"):
        lookup.replace(prompt_lookup_num_tokens=-1)
    canonical = loaded("llama", graphs="canonical")
    with pytest.raises(OptionError, match="prompt_lookup_num_tokens: on onnxruntime these graphs"):
        canonical.generate_ids([[5]], lookup)
    model.use_draft(loaded("llama"))
    with pytest.raises(OptionError, match="4 for a model with a draft; use one of them"):
        model.generate_ids([[5]], lookup)
    with pytest.raises(OptionError, match="draft: num_beams is 2"):
        model.generate_ids([[5]], model.options.replace(num_beams=2))


def test_a_draft_of_another_kind_or_vocabulary_is_refused(loaded, exported, speaking):
    """Each with what it needs."""
    model, draft = loaded("llama"), loaded("llama")
    with pytest.raises(OptionError, match="is of kind encoder-decoder, made to generate; it"):
        model.use_draft(loaded("bart"))
    draft.dims = dataclasses.replace(draft.dims, vocab=95)
    with pytest.raises(OptionError, match=r"has a vocabulary of 95; it needs that of .*has 96"):
        model.use_draft(draft)
    with pytest.raises(OptionError, match="has another tokenizer; it needs that of"):
        model.use_draft(load(speaking("llama")))
