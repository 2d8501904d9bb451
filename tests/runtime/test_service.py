"""A service decodes together what threads and coroutines ask for, and leaves nobody waiting."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import seq2edge
from seq2edge.errors import CapacityError, InputError, ServiceError
from seq2edge.runtime.fake import FakeBackend, random_answer
from seq2edge.runtime.model import Model
from seq2edge.runtime.service import results_of

TEXTS = [f"w{i} w{i + 7}" for i in range(5, 21)]
SECONDS = 20  # after which a test that hangs fails


class GatedBackend(FakeBackend):
    """A fake that steps as often as it may, and fails where it is told to."""

    def __init__(self):
        super().__init__(random_answer(96))
        self.gate = threading.Semaphore(0)
        self.stepping = threading.Semaphore(0)
        self.error = None
        self.broken = None  # a cache that it failed with

    def step(self, tokens, new_length, cache):
        """See Backend."""
        self.stepping.release()
        assert self.gate.acquire(timeout=SECONDS)
        if self.error is not None and self.broken in (None, cache):
            self.broken = cache
            raise self.error
        return super().step(tokens, new_length, cache)

    def open(self, steps=100_000):
        """Let it go on."""
        self.gate.release(steps)

    def reached(self):
        """Wait until it is in a step."""
        assert self.stepping.acquire(timeout=SECONDS)

    @property
    def rows(self):
        """Those of its steps."""
        return [call.rows for call in self.calls if call.name == "step"]


@pytest.fixture(scope="module")
def real(speaking):
    """A small translator of words."""
    return seq2edge.load(speaking("bart"), device="cpu", threads=1)


@pytest.fixture
def gated(real):
    """The same on a backend that waits to be let go on."""
    return Model(real.bundle, GatedBackend())


@pytest.fixture(autouse=True)
def _no_thread_stays():
    """A service's thread ends when there is nothing to do."""
    yield
    ends = time.monotonic() + SECONDS
    while any(thread.name == "seq2edge-service" for thread in threading.enumerate()):
        assert time.monotonic() < ends, "a thread stayed"
        time.sleep(0.001)


def options_of(model, **changes):
    """Few tokens, without an end."""
    values = {"max_new_tokens": 6, "max_length": None, "eos_token_id": (), **changes}
    return model.options.replace(**values)


@pytest.mark.parametrize("beams", [1, 3])
def test_requests_of_many_threads_share_a_batch(real, beams):
    """Each gets its own answers, whole or in pieces, in fewer steps than one after the other."""
    options = options_of(real, num_beams=beams, num_return_sequences=beams)
    wanted = real.generate(TEXTS, options)
    rows = []
    step = real.backend.step

    def counted(tokens, new_length, cache):
        rows.append(len(tokens))
        return step(tokens, new_length, cache)

    model = Model(real.bundle, real.backend)
    with seq2edge.Service(model, rows=8 * beams) as service:

        def ask(number):
            reply = service.generate(TEXTS[number], options)
            pieces = list(reply) if number % 2 else None
            return reply.results(SECONDS), pieces

        real.backend.step = counted
        try:
            with ThreadPoolExecutor(len(TEXTS)) as pool:
                found = list(pool.map(ask, range(len(TEXTS))))
        finally:
            del real.backend.step
    for (results, pieces), answers in zip(found, wanted, strict=True):
        assert [result.ids for result in results] == [answer.ids for answer in answers]
        assert [result.text for result in results] == [answer.text for answer in answers]
        assert pieces is None or "".join(pieces) == answers[0].text
    assert len(rows) < len(TEXTS) * 6 / 2
    assert max(rows) <= 8 * beams


def test_pieces_come_while_it_is_decoded(gated):
    """One reads as it goes; one that is slow gets more at a time, and loses nothing."""
    options = options_of(gated, max_new_tokens=20)
    with seq2edge.Service(gated) as service:
        fast, slow = service.generate("w5", options), service.generate("w9 w8", options)
        gated.backend.open(12)
        pieces = [next(fast)]
        gated.backend.open()
        pieces += fast
        assert len(pieces) > 1
        assert "".join(pieces) == fast.result.text
        assert len(slow.result.ids) == 20
        assert list(slow) == [slow.result.text]
        assert list(slow) == []


def test_a_request_joins_those_that_run(gated):
    """It does not wait for their end."""
    with seq2edge.Service(gated) as service:
        long = service.generate("w5", options_of(gated, max_new_tokens=40))
        gated.backend.open(5)
        for _ in range(6):
            gated.backend.reached()
        short = service.generate("w6", options_of(gated, max_new_tokens=2))
        gated.backend.open(10)
        assert len(short.results(SECONDS)[0].ids) == 2
        with pytest.raises(TimeoutError, match=r"not done after 0\.01 s"):
            long.results(0.01)
        long.cancel()
        gated.backend.open()
        assert long.result.finish_reason == "cancelled"
    assert max(gated.backend.rows) == 2


def test_cancelled_from_another_thread(gated):
    """What runs ends with what there is, what waits with nothing, the rest goes on."""
    options = options_of(gated, max_new_tokens=30)
    with seq2edge.Service(gated, rows=2) as service:
        replies = [service.generate(text, options) for text in TEXTS[:4]]
        gated.backend.open(3)
        for _ in range(4):
            gated.backend.reached()
        with ThreadPoolExecutor(2) as pool:
            pool.map(lambda reply: reply.cancel(), [replies[0], replies[3]])
        gated.backend.open()
        found = [reply.results(SECONDS)[0] for reply in replies]
    assert [sequence.finish_reason for sequence in found] == [
        "cancelled",
        "length",
        "length",
        "cancelled",
    ]
    assert 0 < len(found[0].ids) < 6
    assert [len(sequence.ids) for sequence in found[1:]] == [30, 30, 0]


def test_time_is_over_while_a_request_waits(gated):
    """It ends before its turn comes."""
    with seq2edge.Service(gated, rows=1) as service:
        first = service.generate("w5", options_of(gated, max_new_tokens=50))
        second = service.generate("w6", options_of(gated, max_time=0.01))
        time.sleep(0.02)
        gated.backend.open(2)
        assert second.results(SECONDS)[0].finish_reason == "time"
        first.cancel()
        gated.backend.open()


def test_a_reply_that_nobody_holds_is_cancelled(gated):
    """Read in part or not at all; others are not disturbed."""
    options = options_of(gated, max_new_tokens=50)
    service = seq2edge.Service(gated)
    service.generate("w5", options)
    kept = service.generate("w6", options_of(gated, max_new_tokens=9))
    read_in_part = service.generate("w7", options)
    gated.backend.open(7)
    next(read_in_part)
    del read_in_part
    gated.backend.open()
    assert len(kept.results(SECONDS)[0].ids) == 9
    service.close(finish=True)
    assert len(gated.backend.rows) < 20


def test_a_closed_service_ends_all_that_is_not_done(gated):
    """With an error that says so; what is asked later is refused."""
    with seq2edge.Service(gated, rows=1) as service:
        replies = [service.generate(text, options_of(gated)) for text in TEXTS[:3]]
        gated.backend.open(6)
        assert len(replies[0].results(SECONDS)[0].ids) == 6
        with ThreadPoolExecutor(3) as pool:
            waiting = [pool.submit(list, reply) for reply in replies[1:]]
            closed = pool.submit(service.close)
            while not service._closed:
                pass
            gated.backend.open(1)
            closed.result(SECONDS)
            for reader in waiting:
                with pytest.raises(ServiceError, match="closed before this request was done"):
                    reader.result(SECONDS)
    assert len(replies[0].result.ids) == 6
    with pytest.raises(ServiceError, match="closed before"):
        replies[1].results()
    with pytest.raises(ServiceError, match="closed, it takes no more requests"):
        service.generate("w5")
    service.close()


def test_a_service_can_finish_first(gated):
    """All that was asked for is decoded, and nothing new is taken."""
    service = seq2edge.Service(gated, rows=2)
    replies = [service.generate(text, options_of(gated)) for text in TEXTS[:5]]
    gated.backend.open()
    service.close(finish=True)
    assert [len(reply.results(0)[0].ids) for reply in replies] == [6] * 5
    with pytest.raises(ServiceError, match="takes no more"):
        service.generate("w5")


@pytest.mark.parametrize("error", [RuntimeError("the device is gone"), SystemExit(3)])
def test_an_error_in_the_thread_reaches_every_waiter(gated, error):
    """Those that are decoded, those that wait, and coroutines; then it goes on with new caches."""
    with seq2edge.Service(gated, rows=2) as service:
        options = options_of(gated, max_new_tokens=30)
        replies = [service.generate(text, options) for text in TEXTS[:5]]
        gated.backend.open(9)  # behind the prompts of both that are decoded
        for _ in range(10):
            gated.backend.reached()

        async def wait():
            await replies[4]

        with ThreadPoolExecutor(5) as pool:
            readers = [pool.submit(list, reply) for reply in replies[:2]]
            readers += [pool.submit(reply.results) for reply in replies[2:4]]
            readers += [pool.submit(lambda: asyncio.run(wait()))]
            gated.backend.error = error
            gated.backend.open(1)
            for reader in readers:
                assert reader.exception(SECONDS) is error
        gated.backend.open()
        assert len(service.generate("w5", options_of(gated)).results(SECONDS)[0].ids) == 6


def test_what_does_not_fit_is_refused_at_once(gated):
    """By rows, tokens, the number of requests, and what the model takes; nothing is decoded."""
    options = options_of(gated)
    with seq2edge.Service(gated, rows=3, tokens=50, requests=2) as service:
        with pytest.raises(CapacityError, match=r"rows: this request needs 4, .* takes 3"):
            service.generate("w5", options.replace(num_beams=4))
        with pytest.raises(CapacityError, match="tokens: this request needs 61"):
            service.generate("w5", options.replace(max_new_tokens=60))
        with pytest.raises(InputError, match="source 0: 101 tokens"):
            service.generate("w5 " * 100, options)
        with pytest.raises(InputError, match="made to generate, it cannot transcribe"):
            service.transcribe("clip.wav")
        assert gated.backend.calls == []
        replies = [service.generate("w5", options) for _ in range(2)]
        with pytest.raises(ServiceError, match=r"2 requests are decoded or wait, .* ask again"):
            service.generate("w6", options)
        gated.backend.open()
        assert len(replies[0].results(SECONDS)[0].ids) == 6
        replies[1].results(SECONDS)
        assert len(service.generate("w6", options).results(SECONDS)[0].ids) == 6


def test_requests_of_ones_own(gated):
    """Their callback is called too, and its error is theirs alone."""
    gated.backend.open()
    calls = []

    def broken(_):
        raise ZeroDivisionError("mine")

    def request(call):
        made = gated.request([5, 2], options_of(gated))
        return dataclasses.replace(made, on_tokens=call)

    with seq2edge.Service(gated) as service:
        counted, failed = service.submit(request(calls.append)), service.submit(request(broken))
        assert len(counted.results(SECONDS)[0].ids) == 6
        with pytest.raises(ZeroDivisionError, match="mine"):
            failed.results(SECONDS)
    assert len(calls) == 6


def test_a_chat_and_a_clip(speaking):
    """As the model's own calls."""
    import numpy as np

    chatting = seq2edge.load(
        speaking("gpt2", template="{{ eos_token }} w7 {{ messages[0].content }} w9"),
        device="cpu",
        threads=1,
    )
    messages = [{"role": "user", "content": "w5 w6"}]
    options = options_of(chatting, num_beams=2, num_return_sequences=2)
    wanted = chatting.chat(messages, options)
    with seq2edge.Service(chatting) as service:
        assert service.chat(messages, options).results(SECONDS) == wanted
    assert asyncio.run(chatting.chat_async(messages, options)) == wanted
    hearing = seq2edge.load(
        speaking("whisper", max_source_positions=1500, num_mel_bins=80), device="cpu", threads=1
    )
    clip = np.random.default_rng(0).uniform(-0.5, 0.5, 16000).astype(np.float32)
    options = options_of(hearing)
    with seq2edge.Service(hearing) as service:
        reply = service.transcribe(clip, options)
        assert [reply.result] == hearing.transcribe([clip], options)[0]


def run(coroutine):
    """What it returns; it may not hang."""

    async def limited():
        return await asyncio.wait_for(coroutine, SECONDS)

    return asyncio.run(limited())


def test_coroutines_share_a_batch(gated):
    """Of one model, without a service of one's own, and hold up no event loop."""
    options = options_of(gated)
    plain = Model(gated.bundle, FakeBackend(random_answer(96)))
    wanted = plain.generate(TEXTS, options)

    async def work():
        tasks = [
            asyncio.create_task(gated.generate_async(TEXTS[i : i + 4], options))
            for i in range(0, len(TEXTS), 4)
        ]
        await asyncio.sleep(0)  # all have asked
        gated.backend.open()
        return [answers for part in await asyncio.gather(*tasks) for answers in part]

    assert run(work()) == wanted
    assert max(gated.backend.rows) > 4
    with pytest.raises(InputError, match="give a list"):
        run(gated.generate_async("w5"))
    with pytest.raises(InputError, match="source 0: 101 tokens"):
        run(gated.generate_async(["w5", "w5 " * 100], options))


def test_a_stream_in_a_coroutine(gated):
    """The pieces of the plain stream; it may be left, and its result asked for."""
    options = options_of(gated, max_new_tokens=12)
    plain = Model(gated.bundle, FakeBackend(random_answer(96)))
    wanted = plain.stream("w5 w6", options).result

    async def work():
        gated.backend.open(9)
        stream = gated.stream_async("w5 w6", options)
        pieces = [await anext(stream)]
        gated.backend.open()
        pieces += [piece async for piece in stream]
        assert await stream == [wanted]
        async for _ in gated.stream_async("w7", options):
            break
        return pieces

    pieces = run(work())
    assert "".join(pieces) == wanted.text
    assert len(pieces) > 1


@pytest.mark.parametrize("changes", [{"do_sample": True, "seed": 2}, {"num_beams": 4}])
def test_pieces_of_several_answers(real, changes):
    """Joined, each is one of the results, also where some end before the others."""
    ends = (5, *range(40, 90))
    options = options_of(
        real, num_return_sequences=4, max_new_tokens=9, eos_token_id=ends, logprobs=1, **changes
    )

    async def ask():
        with seq2edge.Service(real) as service:
            reply = service.generate(TEXTS[0], options)
            return [piece async for piece in reply.pieces()], await reply

    pieces, results = asyncio.run(ask())
    assert "num_beams" in changes or "stop" in {result.finish_reason for result in results}
    assert {result.index for result in results} == set(range(4))
    for result in results:
        mine = [piece for piece in pieces if piece.index == result.index]
        assert "".join(piece.text for piece in mine) == result.text
        assert tuple(token for piece in mine for token in piece.ids) == result.ids
        assert tuple(each for piece in mine for each in piece.logprobs) == result.logprobs
        assert mine[-1].finish_reason == result.finish_reason


@pytest.mark.parametrize("way", ["generate", "stream", "loop"])
def test_a_task_that_is_cancelled_cancels_what_it_waits_for(gated, way):
    """Alone, though somebody holds it, among several, or with its event loop."""
    options = options_of(gated, max_new_tokens=60)
    held = []

    async def stream():
        held.append(gated.stream_async("w5", options))
        return [piece async for piece in held[0]]

    async def work():
        asked = gated.generate_async(TEXTS[:3], options) if way == "generate" else stream()
        task = asyncio.create_task(asked)
        gated.backend.open(3)
        await asyncio.sleep(0)
        await asyncio.to_thread(gated.backend.reached)
        if way == "loop":
            return
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work())
    gated.backend.open()
    ends = time.monotonic() + SECONDS
    while gated._service._thread is not None:
        assert time.monotonic() < ends
    assert len(gated.backend.rows) < 10


def test_what_is_asked_for_together_ends_together(gated):
    """Where one fails, nobody decodes the others on, though the error is held."""

    def broken(_):
        raise ZeroDivisionError("mine")

    async def work(service):
        options = options_of(gated, max_new_tokens=60)
        requests = [gated.request([5, 2], options) for _ in range(3)]
        requests[0] = dataclasses.replace(requests[0], on_tokens=broken)
        gated.backend.open()
        await results_of(map(service.submit, requests))

    service = seq2edge.Service(gated)
    with pytest.raises(ZeroDivisionError, match="mine") as held:
        run(work(service))
    service.close(finish=True)
    assert held.value.args == ("mine",)
    assert len(gated.backend.rows) < 30


def test_python_ends_while_a_service_decodes(real):
    """Soon and without a crash, whoever forgot to close it."""
    script = f"""
import seq2edge
model = seq2edge.load({str(real.bundle.path)!r}, device="cpu", threads=1)
options = model.options.replace(max_new_tokens=60, max_length=None, eos_token_id=())
service = seq2edge.Service(model, rows=4, requests=None)
replies = [service.generate("w5", options) for _ in range(3000)]
next(replies[0])
print("left")
"""
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "left\n", "")
