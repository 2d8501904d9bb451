"""What several threads may do at once: each call gets what it gets alone."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import seq2edge
from seq2edge.runtime.fake import FakeBackend, random_answer
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.request import Request
from seq2edge.runtime.scheduler import Scheduler, decode

THREADS = 6
TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] == 'u' and 'w3 ' or 'w4 ' }}{{ m.content }} {% endfor %}w4"
)


@pytest.fixture
def often():
    """Threads change places as often as Python lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(calls):
    """What these return, each called in a thread of its own at the same time."""
    barrier = threading.Barrier(len(calls))

    def run(call):
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


@pytest.mark.usefixtures("often")
def test_calls_of_one_model_do_not_disturb_each_other(speaking):
    """Beams, drawn and plain ones, with a tokenizer that nobody had used before."""
    plain = {"max_new_tokens": 8, "max_length": None}
    kinds = [
        {},
        {"num_beams": 3},
        {"do_sample": True, "seed": 5},
        {"repetition_penalty": 1.4},
        {"no_repeat_ngram_size": 2, "num_beams": 2, "num_return_sequences": 2},
        {"stop_strings": ("w9",)},
    ]
    texts = [[f"w{i} w{i + 1}", f"w{3 * i}"] for i in range(5, 5 + THREADS)]

    def calls(model):
        return [
            lambda text=text, kind=kind: model.generate(
                text, model.options.replace(**plain, **kind)
            )
            for text, kind in zip(texts, kinds, strict=True)
        ]

    folder = speaking("bart")
    wanted = [call() for call in calls(seq2edge.load(folder, device="cpu", threads=1))]
    for _ in range(3):
        assert at_once(calls(seq2edge.load(folder, device="cpu", threads=1))) == wanted


@pytest.mark.usefixtures("often")
def test_encoders_too(speaking):
    """Scores and embeddings are the same numbers."""
    model = seq2edge.load(speaking("bert-embedding"), device="cpu", threads=1)
    texts = [[f"w{i}", f"w{i} w{2 * i}"] for i in range(5, 5 + THREADS)]
    wanted = [model.embed(pair) for pair in texts]
    found = at_once([lambda pair=pair: model.embed(pair) for pair in texts])
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.usefixtures("often")
def test_one_tokenizer_counts_for_all_threads(speaking):
    """It is made once, and no text that was cut is missed."""
    model = seq2edge.load(speaking("bart"), device="cpu", threads=1, cut=True)
    long = " ".join(["w5"] * 100)
    made = at_once([lambda: [model.encode_text(long) for _ in range(50)] and model.tokenizer] * 6)
    assert all(tokenizer is model.tokenizer for tokenizer in made)
    assert model.tokenizer.shortened == 6 * 50


def test_a_stream_is_cancelled_from_another_thread_and_read_by_one(speaking):
    """A second reader is refused while the first one runs the model."""
    model = seq2edge.load(speaking("bart"), device="cpu", threads=1)
    options = model.options.replace(max_new_tokens=40, max_length=None, eos_token_id=())
    reading, refused = threading.Event(), threading.Event()
    step = model.backend.step

    def slow(*arguments):
        reading.set()
        assert refused.wait(5)
        return step(*arguments)

    model.backend.step = slow
    stream = model.stream("w5 w6", options)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(list, stream)
        assert reading.wait(5)
        with pytest.raises(ValueError, match="already executing"):
            next(stream)
        stream.cancel()
        refused.set()
        first.result()
    assert stream.result.finish_reason == "cancelled"


def test_turns_of_a_session_come_one_after_the_other(speaking):
    """Each with its answer, whoever comes first."""
    bundle = speaking("llama", template=TEMPLATE, max_position_embeddings=256)
    model = seq2edge.load(bundle, device="cpu", threads=1)
    options = model.options.replace(max_new_tokens=6, max_length=None, eos_token_id=())
    session = model.session(options)
    turns = [f"w{i}" for i in range(5, 5 + THREADS)]
    found = at_once([lambda turn=turn: (turn, session.chat(turn).text) for turn in turns])
    said = [message["content"] for message in session.messages]
    assert sorted(zip(said[::2], said[1::2], strict=True)) == sorted(found)
    again = model.session(options)
    assert [again.chat(turn).text for turn in said[::2]] == said[1::2]


@pytest.mark.usefixtures("often")
def test_requests_are_submitted_and_cancelled_while_others_are_decoded():
    """By several threads; one steps. Nobody is lost, and who was not cancelled has its tokens."""
    load = [
        Request(prompt=[i % 30], options=DecodeOptions(num_beams=1 + i % 2), max_new_tokens=6)
        for i in range(400)
    ]
    answer = random_answer(30)
    alone = [decode(FakeBackend(answer), [request])[0] for request in load[:60]]
    scheduler = Scheduler(FakeBackend(answer), rows=8)
    groups = {}

    def submit(first):
        for number in range(first, len(load), 3):
            groups[number] = scheduler.submit(load[number])
            if number % 5 == 4:
                groups[number].cancel()

    threads = [threading.Thread(target=submit, args=(first,)) for first in range(3)]
    for thread in threads:
        thread.start()
    while scheduler.step() or any(thread.is_alive() for thread in threads):
        pass
    assert len(groups) == len(load)
    for number, group in groups.items():
        assert group.done
        if number % 5 != 4:
            assert [s.ids for s in group.results()] == [s.ids for s in alone[number % 60]]


def test_an_error_of_a_callback_is_its_own_requests():
    """As that of a processor; the others get their tokens."""

    def broken(group):
        raise ZeroDivisionError("mine")

    scheduler = Scheduler(FakeBackend(random_answer(6)))
    good, bad = (
        scheduler.submit(
            Request(prompt=[1], options=DecodeOptions(), max_new_tokens=3, on_tokens=call)
        )
        for call in (None, broken)
    )
    scheduler.run()
    assert len(good.results()[0].ids) == 3
    with pytest.raises(ZeroDivisionError, match="mine"):
        bad.results()
