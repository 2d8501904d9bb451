"""The numeric proof: what it records, and that it notices every kind of difference."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from seq2edge.bundle.manifest import ParityRecord
from seq2edge.model.dims import Dims, StackDims
from seq2edge.runtime.fake import FakeBackend, random_answer
from seq2edge.runtime.parity import (
    BEAMS,
    ELSEWHERE,
    ENGINE_TOLERANCES,
    FLOAT32_ERROR,
    STEPS,
    TOLERANCES,
    Parity,
    allowed_error,
    make_inputs,
    record,
    replay,
    split_for_engine,
)

STACK = StackDims(layers=1, heads=1, kv_heads=1, head_dim=4, hidden=4, activation="relu")
DECODER = Dims(width=4, vocab=100, decoder=STACK)
TRANSLATOR = Dims(width=4, vocab=100, encoder=STACK, decoder=STACK)
ENCODER = Dims(width=4, vocab=100, encoder=STACK, head="embedding", pooling="mean")


@pytest.fixture(params=[DECODER, TRANSLATOR], ids=lambda dims: dims.kind)
def reference(request):
    """What a random model answered."""
    return record(FakeBackend(random_answer(100)), make_inputs(request.param, (3, 4)))


def changed(index, amount):
    """That model, with one logit of every answer off by so much."""
    plain = random_answer(100)

    def answer(history, source):
        logits = plain(history, source)
        logits[np.argsort(-logits)[index]] += amount
        return logits

    return FakeBackend(answer)


def test_the_same_model_gives_the_same(reference):
    """No error, every token equal."""
    parity = replay(FakeBackend(random_answer(100)), reference)
    assert parity.max_absolute == parity.max_relative == 0
    assert parity.tokens_equal == parity.tokens_compared == 2 + STEPS * 2 * BEAMS
    assert parity.within()


@pytest.mark.parametrize(("index", "amount"), [(3, 0.01), (0, -0.01), (90, 9.0)])
def test_a_different_logit_is_measured(reference, index, amount):
    """Large ones directly; small ones, which are not recorded, through the normaliser."""
    parity = replay(changed(index, amount), reference)
    assert parity.max_absolute > TOLERANCES["float32"].absolute
    assert not parity.within()
    if index < 64:
        assert parity.max_absolute == pytest.approx(abs(amount), rel=1e-3)


def test_another_choice_is_counted(reference):
    """Tokens must be the same, but for those that are as likely as each other."""
    parity = replay(changed(1, 9.0), reference)
    assert parity.tokens_equal == 0
    parts = {"max_absolute": 0.0, "max_relative": 0.0, "allowed": 1.0}
    assert not Parity(tokens_compared=5, tokens_equal=4, **parts).within()
    gap = max(float((t[:, 0] - t[:, 1]).max()) for k, t in reference.items() if "logits" in k)
    parity = replay(changed(1, 9.0), {**reference, FLOAT32_ERROR: np.array(gap)})
    assert parity.tokens_equal == parity.tokens_compared


def test_no_number_is_no_parity(reference):
    """NaN compares as neither larger nor smaller; it must not pass."""
    parity = replay(changed(3, np.nan), reference)
    assert not parity.within()
    assert np.isfinite([parity.max_absolute, parity.max_relative]).all()


@pytest.mark.parametrize("times", [1.0, ELSEWHERE])
def test_the_allowed_error_is_a_bound(times):
    """Elsewhere it is some times as much."""
    parts = {"max_relative": 0.0, "tokens_compared": 1, "tokens_equal": 1, "allowed": 0.5}
    assert Parity(max_absolute=times * 0.5, **parts).within(times)
    assert not Parity(max_absolute=times * 0.51, **parts).within(times)


@pytest.mark.parametrize(
    ("error", "largest", "allowed"),
    [
        (None, 2.0, 2e-4),  # by the table: absolute for small logits, relative for large ones
        (None, 100.0, 2e-3),
        (1e-3, 8.0, 8e-3),  # by what the float32 model errs
        (0.0, 8.0, 8 * 8.0 * 2.0**-22),  # which is no less than this
    ],
)
def test_what_a_reference_allows(error, largest, allowed):
    """Infinite logits, of tokens that cannot be chosen, do not count."""
    logits = np.array([[-largest, 1.0, -np.inf]])
    reference = {"top_logits_0": logits} | ({} if error is None else {FLOAT32_ERROR: error})
    assert allowed_error(reference) == pytest.approx(allowed)


def test_ids_to_avoid_are_nowhere():
    """Neither in sources and prompts nor among the tokens that are gone on with."""
    avoid = frozenset(range(60))
    inputs = make_inputs(TRANSLATOR, (3, 4), avoid=avoid)
    reference = record(FakeBackend(random_answer(100)), inputs, avoid)
    assert reference["source"].min() >= 60
    assert reference["tokens"].min() >= 60
    assert min(reference[f"top_ids_{i}"][:, 0].min() for i in range(STEPS)) < 60


def test_a_cache_that_is_not_reordered_is_noticed(reference):
    """The program exchanges beams, so that a broken reorder cannot pass."""

    class Forgetful(FakeBackend):
        def start(self, memory, rows, capacity):
            cache = super().start(memory, rows, capacity)
            right = cache.reorder

            def reorder(order):
                right(order if len(order) != len(cache.histories) else np.arange(len(order)))

            cache.reorder = reorder
            return cache

    parity = replay(Forgetful(random_answer(100)), reference)
    assert parity.tokens_equal < parity.tokens_compared


def test_inputs_are_unequal_and_fit_the_model():
    """The same for the same seed; sources and prompts of different lengths."""
    inputs = make_inputs(TRANSLATOR, (3, 4))
    again = make_inputs(TRANSLATOR, (3, 4))
    assert all(np.array_equal(inputs[name], again[name]) for name in inputs)
    assert len(set(inputs["source_length"].tolist())) == 2
    assert inputs["prompt"].tolist() == [[3, 4], [3, 4]]
    assert len(set(make_inputs(DECODER, ())["prompt_length"].tolist())) == 2
    short = Dims(
        width=4,
        vocab=100,
        encoder=StackDims(
            layers=1, heads=1, kv_heads=1, head_dim=4, hidden=4, activation="relu", max_positions=5
        ),
        head="embedding",
    )
    assert make_inputs(short, ())["source"].shape == (2, 5)
    speech = Dims(width=4, vocab=100, encoder=short.encoder, decoder=STACK, mels=8)
    assert make_inputs(speech, (1,))["source"].shape == (1, 8, 10)


def test_encoders_are_compared_by_what_they_pool():
    """There are no tokens to compare."""
    reference = record(FakeBackend(random_answer(8)), make_inputs(ENCODER, ()))
    parity = replay(FakeBackend(random_answer(8)), reference)
    assert (parity.max_absolute, parity.tokens_compared) == (0, 0)
    assert parity.within()
    assert not replay(FakeBackend(random_answer(8, seed=1)), reference).within()


def test_types_of_tokens_are_part_of_the_program():
    """A backend that does not look at them is found."""

    class Blind(FakeBackend):
        def pool(self, source, source_length, token_types=None):
            return super().pool(source, source_length)

    inputs = make_inputs(dataclasses.replace(ENCODER, token_types=2), ())
    assert set(inputs["token_types"].ravel().tolist()) == {0, 1}
    reference = record(FakeBackend(random_answer(8)), inputs)
    assert replay(FakeBackend(random_answer(8)), reference).within()
    assert not replay(Blind(random_answer(8)), reference).within()


@pytest.mark.parametrize(("place", "equal"), [(0, False), (-1, True)])
def test_answers_to_tokens_are_compared_but_for_padding(place, equal):
    """The second of the two sources is padded."""

    class Other(FakeBackend):
        def pool(self, source, source_length, token_types=None):
            pooled = super().pool(source, source_length, token_types)
            pooled[1, place] += 9
            return pooled

    def answer(_, source):
        return np.array([[token, -token] for token in source])

    reference = record(FakeBackend(answer), make_inputs(ENCODER, ()))
    assert reference["pooled"].ndim == 3
    assert replay(Other(answer), reference).within() == equal


@pytest.mark.parametrize(
    ("batch", "rows", "parts"),
    [((1, 2, 8), 32, [2]), ((1, 1, 1), 4, [1, 1]), ((1, 1, 1), 1, [1, 1]), ((3, 3, 3), 9, [3])],
)
def test_the_program_is_cut_to_what_an_engine_takes(reference, batch, rows, parts):
    """Fewer inputs at once, inputs twice, no beams: still the same answers, in each part."""
    found = list(split_for_engine(reference, batch=batch, rows=rows))
    assert [len(part["prompt"]) for part in found] == parts
    for part in found:
        backend = FakeBackend(random_answer(100))
        parity = replay(backend, part)
        assert parity.tokens_equal == parity.tokens_compared > 0
        assert parity.max_absolute == 0
        assert max(call.rows for call in backend.calls) <= rows
        assert replay(changed(1, 9.0), part).tokens_equal == 0


def test_the_program_of_an_encoder_is_cut_too():
    """It has no tokens."""
    reference = record(FakeBackend(random_answer(8)), make_inputs(ENCODER, ()))
    parts = list(split_for_engine(reference, batch=(1, 1, 1), rows=1))
    assert len(parts) == 2
    assert all(replay(FakeBackend(random_answer(8)), part).max_absolute == 0 for part in parts)


@pytest.mark.parametrize("precision", ENGINE_TOLERANCES)
def test_engines_may_round_but_not_guess(precision):
    """Wider for fewer bits; noise, and tokens that are mostly others, are never within."""
    allowed = ENGINE_TOLERANCES[precision]
    parts = {"max_absolute": 9.0, "tokens_compared": 100}
    enough = int(100 * allowed.tokens)
    good = Parity(max_relative=allowed.relative, tokens_equal=enough, **parts)
    assert good.engine_within(precision)
    assert not Parity(
        max_relative=allowed.relative, tokens_equal=enough - 1, **parts
    ).engine_within(precision)
    assert not Parity(max_relative=0.5, tokens_equal=100, **parts).engine_within(precision)
    assert allowed.relative >= ENGINE_TOLERANCES["float32"].relative


def test_a_quantized_engine_may_err_twice_what_its_bundle_did():
    """Where that is more than the table has."""
    recorded = ParityRecord(max_absolute=1.0, max_relative=0.3, tokens_compared=10, tokens_equal=5)
    found = Parity(max_absolute=1.0, max_relative=0.5, tokens_compared=10, tokens_equal=4)
    assert found.engine_within("int4-weight", recorded)
    assert not found.engine_within("int4-weight")
    worse = Parity(max_absolute=1.0, max_relative=0.7, tokens_compared=10, tokens_equal=4)
    assert not worse.engine_within("int4-weight", recorded)
