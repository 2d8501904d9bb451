"""Requests decoded together: each gets what it gets alone, and no call is made in vain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from requests_of import decode_as_they_come, decode_prompts

from seq2edge.errors import BackendError, CapacityError, OptionError
from seq2edge.runtime.batch import CHUNK
from seq2edge.runtime.fake import Call, FakeBackend, random_answer
from seq2edge.runtime.likelihood import log_softmax
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.request import Request
from seq2edge.runtime.scheduler import Scheduler, decode
from seq2edge.runtime.sequences import GeneratedSequence

VOCAB = 6
PROMPTS = st.lists(
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=4), min_size=1, max_size=3
)


def counting(history, _):
    """The next number, up to the vocabulary's end."""
    logits = np.zeros(10)
    logits[min(history[-1] + 1, 9)] = 5.0
    return logits


def generate(answer, prompts, limit, **options):
    """The single sequence of each prompt, and the backend that gave it."""
    backend = FakeBackend(answer)
    results = decode_prompts(backend, prompts, DecodeOptions(**options), max_new_tokens=limit)
    return [sequences[0] for sequences in results], backend


@settings(max_examples=100)
@given(st.integers(0, 999), PROMPTS, st.integers(1, 6))
def test_greedy_takes_the_likeliest_token(seed, prompts, limit):
    """Every row by itself, however long its neighbours are; scores are log-probabilities."""
    answer = random_answer(VOCAB, seed)
    found, _ = generate(answer, prompts, limit, eos_token_id=2)
    for prompt, sequence in zip(prompts, found, strict=True):
        ids, score = (), 0.0
        while len(ids) < limit and 2 not in ids:
            likely = log_softmax(answer((*prompt, *ids), None))
            ids, score = (*ids, int(likely.argmax())), score + likely.max()
        assert sequence.ids == ids
        assert sequence.score == pytest.approx(score, abs=1e-4)
        assert sequence.finished == (ids[-1] == 2)


def test_prompts_are_fed_once_then_one_token_a_step():
    """The cache holds the rest; a row that has ended leaves."""
    found, backend = generate(counting, [[6], [1, 2]], 5, eos_token_id=8)
    assert [sequence.ids for sequence in found] == [(7, 8), (3, 4, 5, 6, 7)]
    assert backend.calls == [
        Call(name="start", rows=2),
        Call(name="step", rows=2, tokens=((6,), (1, 2))),
        Call(name="step", rows=2, tokens=((7,), (3,))),
        Call(name="keep", rows=1),
        Call(name="step", rows=1, tokens=((4,),)),
        Call(name="step", rows=1, tokens=((5,),)),
        Call(name="step", rows=1, tokens=((6,),)),
    ]


def test_where_rows_cannot_leave_they_are_fed_padding():
    """Until the last one ends; the rest waits for it."""
    backend = FakeBackend(counting, running=False)
    options = DecodeOptions(eos_token_id=8, pad_token_id=0)
    prompts = [[6], [1, 2], [7]]
    found = decode_prompts(backend, prompts, options, max_new_tokens=3, rows=2)
    assert [sequence.ids for (sequence,) in found] == [(7, 8), (3, 4, 5), (8,)]
    assert [call for call in backend.calls if call.name != "start"] == [
        Call(name="step", rows=2, tokens=((6,), (1, 2))),
        Call(name="step", rows=2, tokens=((7,), (3,))),
        Call(name="step", rows=2, tokens=((8,), (4,))),
        Call(name="step", rows=1, tokens=((7,),)),
    ]


def test_it_stops_when_all_rows_have_ended():
    """Not a step more; the last token is never fed."""
    found, backend = generate(counting, [[5], [6]], 9, eos_token_id=(7, 8))
    assert [sequence.ids for sequence in found] == [(6, 7), (7,)]
    assert all(sequence.finished for sequence in found)
    assert sum(call.name == "step" for call in backend.calls) == 2


def test_without_an_end_token_nothing_ends_before_the_limit():
    """And the reason says so."""
    found, _ = generate(counting, [[1]], 4)
    assert found == [
        GeneratedSequence(ids=(2, 3, 4, 5), score=found[0].score, finish_reason="length")
    ]


def test_filters_choose_but_do_not_count():
    """A greedy score is the model's own, also of tokens that a filter forced."""
    found, _ = generate(counting, [[1]], 2, forced_eos_token_id=9, eos_token_id=9)
    assert found[0].ids == (2, 9)
    likely = [log_softmax(counting((1,), None))[2], log_softmax(counting((1, 2), None))[9]]
    assert found[0].score == pytest.approx(sum(likely), abs=1e-5)


def test_a_backend_may_reuse_its_logits():
    """The loop changes no array that it was given."""
    shared = np.arange(VOCAB, dtype=np.float32)[None].repeat(2, axis=0)

    class Reusing(FakeBackend):
        def step(self, tokens, new_length, cache):
            super().step(tokens, new_length, cache)
            return shared if len(tokens) == 2 else shared[:1]

    kept = shared.copy()
    for beams in (1, 2):
        options = DecodeOptions(
            num_beams=beams, repetition_penalty=2.0, suppress_tokens=(1,), forced_bos_token_id=3
        )
        decode_prompts(Reusing(random_answer(VOCAB)), [[1]], options, max_new_tokens=3)
        np.testing.assert_array_equal(shared, kept)


def test_capacity_is_the_backends_to_keep():
    """The option reaches it; what does not fit is an error."""
    assert len(generate(counting, [[1, 2]], 3, capacity=4)[0][0].ids) == 3
    with pytest.raises(CapacityError, match="more than the 4 tokens"):
        generate(counting, [[1, 2]], 4, capacity=4)


KINDS = [
    {},
    {"num_beams": 2},
    {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5},
    {"do_sample": True, "seed": 4},
    {"do_sample": True, "seed": 4, "num_return_sequences": 3},
    {"do_sample": True, "seed": 4, "num_beams": 3},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    {"capacity": 64},
]


def requests(seed, count, *, encoder):
    """A mixed load: kinds, lengths, limits and ends."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        kind = KINDS[rng.integers(len(KINDS))]
        length = int(rng.integers(1, 12))
        made.append(
            Request(
                prompt=[1] if encoder else rng.integers(0, 30, length).tolist(),
                source=rng.integers(0, 30, length).tolist() if encoder else None,
                options=DecodeOptions(eos_token_id=(2, 3), **kind),
                max_new_tokens=int(rng.integers(1, 20)),
            )
        )
    return made


@pytest.mark.parametrize("top_k", [0, 12])
@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("encoder", [True, False])
def test_each_request_gets_what_it_gets_alone(encoder, running, top_k):
    """Of 60 that come at different times, a few rows at a time, some cancelled on the way."""

    def backend():
        return FakeBackend(random_answer(30, spread=3.0), running=running, top_k=top_k)

    load = requests(5, 60, encoder=encoder)
    alone = [decode(backend(), [request])[0] for request in load]
    groups, cancelled = decode_as_they_come(backend(), load, rows=12, seed=1)
    for number, (group, wanted) in enumerate(zip(groups, alone, strict=True)):
        if number not in cancelled:
            assert group.results() == wanted
    reasons = {s.finish_reason for number in cancelled for s in groups[number].results()}
    assert "cancelled" in reasons
    assert len(cancelled) > 3


def test_the_rows_in_use_are_bounded():
    """Whatever waits; and no step has fewer rows than could be in use."""
    backend = FakeBackend(random_answer(30))
    load = requests(2, 40, encoder=False)
    decode(backend, load, rows=8)
    steps = [call.rows for call in backend.calls if call.name == "step"]
    assert max(steps) <= 8


def test_a_request_that_never_fits_is_refused_at_once():
    """By rows or by tokens; one that fits later waits."""
    options = DecodeOptions(num_beams=4)
    scheduler = Scheduler(FakeBackend(counting), rows=3, tokens=100)
    with pytest.raises(CapacityError, match="rows: this request needs 4, the scheduler takes 3"):
        scheduler.submit(Request(prompt=[1], options=options, max_new_tokens=5))
    with pytest.raises(CapacityError, match="tokens: this request needs 101"):
        scheduler.submit(Request(prompt=[1], options=DecodeOptions(), max_new_tokens=100))
    first, second = (
        scheduler.submit(Request(prompt=[n], options=DecodeOptions(), max_new_tokens=59))
        for n in (1, 2)
    )
    for _ in range(59):
        scheduler.step()
    assert first.done
    assert not second.history.generated
    scheduler.run()
    assert len(second.results()[0].ids) == 59


def test_a_trickle_does_not_wait_for_a_long_request():
    """Short requests that come later are done while the long one goes on."""
    scheduler = Scheduler(FakeBackend(counting), rows=4)
    long = scheduler.submit(Request(prompt=[1], options=DecodeOptions(), max_new_tokens=100))
    for n in range(10):
        short = scheduler.submit(Request(prompt=[n], options=DecodeOptions(), max_new_tokens=3))
        for _ in range(3):
            scheduler.step()
        assert short.done
    assert not long.done


def test_a_long_prompt_is_read_in_parts_between_the_steps_of_others():
    """With the same tokens."""
    backend = FakeBackend(counting)
    scheduler = Scheduler(backend)
    short = scheduler.submit(Request(prompt=[1], options=DecodeOptions(), max_new_tokens=9))
    prompt = [*range(9)] * (3 * CHUNK // 9)
    long = scheduler.submit(Request(prompt=prompt, options=DecodeOptions(), max_new_tokens=2))
    scheduler.run()
    assert short.results()[0].ids == (2, 3, 4, 5, 6, 7, 8, 9, 9)
    assert long.results()[0].ids == (9, 9)
    parts = [len(ids) for call in backend.calls for ids in call.tokens if len(ids) > 1]
    assert max(parts) <= CHUNK
    assert sum(parts) == len(prompt)


def test_an_error_of_one_request_is_its_own():
    """Its logits are no numbers; the others get their tokens."""

    def answer(history, _):
        logits = counting(history, _)
        return logits * np.nan if 5 in history else logits

    scheduler = Scheduler(FakeBackend(answer))
    good, bad = (
        scheduler.submit(Request(prompt=[n], options=DecodeOptions(), max_new_tokens=3))
        for n in (1, 3)
    )
    scheduler.run()
    assert good.results()[0].ids == (2, 3, 4)
    with pytest.raises(BackendError, match="NaN or infinity"):
        bad.results()


def test_time_ends_a_request_where_it_is():
    """With what it has by then, greedy and beams."""
    for beams in (1, 3):
        options = DecodeOptions(max_time=1e-9, num_beams=beams)
        (found,) = decode_prompts(FakeBackend(counting), [[1]], options, max_new_tokens=9)
        assert [sequence.finish_reason for sequence in found] == ["time"]


@pytest.mark.parametrize("beams", [1, 3])
def test_cancelled_on_the_way(beams):
    """The tokens so far, of the best beam; the last step's are not waited for."""
    scheduler = Scheduler(FakeBackend(counting))
    options = DecodeOptions(num_beams=beams)
    group = scheduler.submit(Request(prompt=[1], options=options, max_new_tokens=9))
    for _ in range(3):
        scheduler.step()
    group.cancel()
    scheduler.run()
    (found,) = group.results()
    assert (found.ids, found.finish_reason) == ((2, 3, 4), "cancelled")


def test_a_callers_processor_changes_scores_after_the_filters():
    """It sees the tokens so far and may make any likelier."""

    def favour(tokens, scores):
        assert tokens.tolist()[0][:1] == [1]
        scores[:, 6] += 100
        return scores

    request = Request(prompt=[1], options=DecodeOptions(), max_new_tokens=2, processors=[favour])
    assert decode(FakeBackend(counting), [request])[0][0].ids == (6, 6)
    assert decode(FakeBackend(counting, top_k=3), [request])[0][0].ids == (6, 6)


def test_a_processor_that_fails_ends_its_own_request_alone():
    """With the caller's own error."""

    def broken(tokens, scores):
        raise ZeroDivisionError("mine")

    scheduler = Scheduler(FakeBackend(counting))
    good, bad = (
        scheduler.submit(
            Request(prompt=[1], options=DecodeOptions(), max_new_tokens=3, processors=processors)
        )
        for processors in ((), (broken,))
    )
    scheduler.run()
    assert good.results()[0].ids == (2, 3, 4)
    with pytest.raises(ZeroDivisionError, match="mine"):
        bad.results()


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"suppress_tokens": (*range(10),)}, "suppress_tokens: after 0"),
        ({"forced_eos_token_id": 4, "suppress_tokens": [4]}, "forced_eos.*, suppress.*: after 2"),
        (
            {"no_repeat_ngram_size": 1, "suppress_tokens": (*range(4, 10),)},
            "suppress.*, no_repeat.*: after 2",
        ),
    ],
)
@pytest.mark.parametrize(
    "way", [{}, {"num_beams": 2}, {"do_sample": True}, {"do_sample": True, "num_beams": 2}]
)
@pytest.mark.parametrize("top_k", [0, 6])
def test_options_that_leave_no_token_are_refused(options, names, way, top_k):
    """By their names, when they do; the others go on."""
    scheduler = Scheduler(FakeBackend(counting, top_k=top_k))
    bad, good = (
        scheduler.submit(Request(prompt=[0, 1], options=each, max_new_tokens=3))
        for each in (DecodeOptions(**options, **way), DecodeOptions(**way))
    )
    scheduler.run()
    with pytest.raises(OptionError, match=f"{names} tokens no other is left to choose"):
        bad.results()
    assert len(good.results()[0].ids) == 3


@pytest.mark.parametrize("drawn", [True, False])
def test_a_beam_that_cannot_go_on_ends_alone(drawn):
    """The other one does; also where draws are from the likeliest together."""

    def forbid(tokens, scores):
        scores[tokens[:, -1] == 3] = -np.inf
        return scores

    options = DecodeOptions(num_beams=2, do_sample=drawn, seed=0, top_p=0.9, typical_p=0.9)
    request = Request(prompt=[2], options=options, max_new_tokens=3, processors=[forbid])
    answer = np.array([5.0, 0.0, 0.0, 6.0])  # both begin, and are all that top_p leaves
    ((found,),) = decode(FakeBackend(lambda *_: answer), [request])
    assert found.ids[:2] == (0, 0)


@pytest.mark.parametrize("drawn", [True, False])
def test_where_no_beam_can_go_on_what_has_ended_is_the_result(drawn):
    """It was found before."""

    def forbid(tokens, scores):
        if tokens.shape[1] > 1:
            scores[:] = -np.inf
        return scores

    options = DecodeOptions(num_beams=2, do_sample=drawn, seed=0, eos_token_id=0)
    request = Request(prompt=[2], options=options, max_new_tokens=3, processors=[forbid])
    answer = np.array([9.0, 8.0, -9.0])
    ((found,),) = decode(FakeBackend(lambda *_: answer), [request])
    assert (found.ids, found.finish_reason) == ((0,), "stop")


def test_a_long_prompt_is_not_read_on_for_nobody():
    """A request that is cancelled while its prompt is read ends before it is read whole."""
    backend = FakeBackend(counting)
    scheduler = Scheduler(backend)
    prompt = [1] * 4 * CHUNK
    group = scheduler.submit(Request(prompt=prompt, options=DecodeOptions(), max_new_tokens=2))
    scheduler.step()
    group.cancel()
    scheduler.run()
    assert [s.finish_reason for s in group.results()] == ["cancelled"]
    assert sum(len(ids) for call in backend.calls for ids in call.tokens) == CHUNK


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("longest", [4, CHUNK + 3])
def test_a_request_may_change_the_rest_of_its_prompt(running, beams, longest):
    """By the logits that follow its first tokens; it goes on as one that had that prompt."""
    answer = random_answer(VOCAB, 3)
    options = DecodeOptions(num_beams=beams)
    first = [tuple(i % VOCAB for i in range(length)) for length in (1, 3, longest)]
    logits = []

    def on_prompt(row):
        logits.append(row.copy())
        return (int(row.argmax()), 5)

    requests = [
        Request(
            prompt=(*ids, 0, 0), options=options, max_new_tokens=3, on_prompt=on_prompt, after=2
        )
        for ids in first
    ]
    plain = Request(prompt=first[1], options=options, max_new_tokens=3)
    backend = FakeBackend(answer, running=running)
    groups = decode(backend, [*requests, plain])
    expected = [answer(ids, None).astype(np.float32) for ids in first]
    np.testing.assert_array_equal(logits, expected)
    whole = [(*ids, int(row.argmax()), 5) for ids, row in zip(first, expected, strict=True)]
    others = decode_prompts(FakeBackend(answer), [*whole, first[1]], options, max_new_tokens=3)
    assert groups == others


def test_what_the_logits_raise_ends_the_request_alone():
    """The others of its batch go on."""

    def on_prompt(_):
        raise ValueError("no")

    scheduler = Scheduler(FakeBackend(counting))
    options = DecodeOptions()
    bad, good = (
        scheduler.submit(Request(prompt=(1,), options=options, max_new_tokens=2, on_prompt=asked))
        for asked in (on_prompt, lambda _: None)
    )
    scheduler.run()
    assert good.results()[0].ids == (2, 3)
    with pytest.raises(ValueError, match="no"):
        bad.results()


@pytest.mark.parametrize("running", [True, False])
def test_a_source_is_encoded_once_for_several_requests(running):
    """Where it was decoded alone; the memory of several is none of theirs."""
    backend = FakeBackend(random_answer(VOCAB, 4), running=running)

    def request(source, memory=None):
        return Request(
            prompt=(1,),
            source=source,
            options=DecodeOptions(),
            max_new_tokens=2,
            holds_memory=True,
            memory=memory,
        )

    scheduler = Scheduler(backend)
    group = scheduler.submit(request((3, 4)))
    scheduler.run()
    again = [scheduler.submit(request((3, 4), group.memory)) for _ in range(2)]
    scheduler.run()
    assert [each.results() for each in again] == [group.results()] * 2
    assert [call.name for call in backend.calls].count("encode") == 1
    both = [scheduler.submit(request(source)) for source in ((3, 4), (4, 3))]
    scheduler.run()
    assert [each.memory for each in both] == [None, None]
