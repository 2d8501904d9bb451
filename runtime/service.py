"""One running batch for many callers: a thread decodes what others and coroutines ask for.

Texts are read, and answers made texts again, in the thread of who asks; the service's own thread
runs the model. It lives while there is something to decode.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import dataclasses
import os
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import ServiceError
from seq2edge.runtime.group import Group
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.request import Prefix, Request
from seq2edge.runtime.scheduler import ROWS, Scheduler
from seq2edge.runtime.sequences import FinishReason, GeneratedText, TokenLogprob
from seq2edge.runtime.streaming import Detokenizer
from seq2edge.runtime.tools import ToolCall, Tools

if TYPE_CHECKING:
    from seq2edge.runtime.images import Picture
    from seq2edge.runtime.model import Model

REQUESTS = 256  # that are decoded or wait, where nobody says

Wake: TypeAlias = Callable[[], object]


class _Feed:
    """What the thread that decodes tells of one request: ids that are certain, and the end.

    Who waits leaves a function, which is called once. Ids are all so far: a slow reader gets longer
    pieces, and nothing piles up. Those of beams take long to tell, and are looked up only for who
    waits for them.
    """

    def __init__(self) -> None:
        self.ids: Sequence[Sequence[int]] = ()  # of each answer
        self.over = False
        self._lock = threading.Lock()
        self._readers: list[Wake] = []
        self._waiters: list[Wake] = []

    @property
    def count(self) -> int:
        """Of all answers' ids."""
        return sum(map(len, self.ids))

    def call(self, wake: Wake, *, tokens: bool, read: int) -> None:
        """Call it at the end, with `tokens` when there are more than `read` ids too; now, if so."""
        with self._lock:
            if not self.over and not (tokens and self.count > read):
                (self._readers if tokens else self._waiters).append(wake)
                return
        wake()

    def on_tokens(self, group: Group) -> None:
        """See Request."""
        if group.done or not (self._readers or group.request.rows == 1):
            return
        ids = group.search.certain()
        if sum(map(len, ids)) > self.count:
            with self._lock:
                self.ids = ids
                readers, self._readers = self._readers, []
            for wake in readers:
                wake()

    def end(self) -> None:
        """Nothing more comes."""
        with self._lock:
            self.over = True
            wakes = [*self._readers, *self._waiters]
        for wake in wakes:
            wake()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """What came of one of a reply's answers: text, and the ids and log-probabilities since before.

    Ids may come with a later piece than a part of their text. The last one has a `finish_reason`,
    and what the answer asks for of tools.
    """

    index: int
    text: str
    ids: Sequence[int] = ()
    logprobs: Sequence[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    tool_calls: tuple[ToolCall, ...] = ()


class Reply:
    """One answer on its way: all of it, or pieces of its text by `for` or `async for`.

    Pieces are those of a `TextStream`, but the service decodes them whether or not they are read.
    A reply that nobody holds any more is cancelled, and so is one whose task is cancelled while it
    waits for it. Pieces are for one reader, all else is for any thread.
    """

    def __init__(self, model: Model, group: Group, feed: _Feed) -> None:
        self._model, self._group, self._feed = model, group, feed
        self._detokenizer = Detokenizer.of(model.tokenizer, group.request)
        self._making = threading.Lock()
        self._results: list[GeneratedText] | None = None  # made once: calls have ids of their own
        self._read = False  # to the end
        self._ids = 0  # that were looked at

    def __del__(self) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Let it end at the next step, with what there is; also while it waits to be decoded."""
        self._group.cancel()

    def results(self, timeout: float | None = None) -> list[GeneratedText]:
        """All answers, best first. Raises the error that ended it.

        After so many seconds a TimeoutError, behind which it goes on; `max_time` of the options
        ends it.
        """
        self._wait(tokens=False, timeout=timeout)
        with self._making:
            if self._results is None:
                self._results = self._model.texts_of(self._group)
            return list(self._results)

    @property
    def result(self) -> GeneratedText:
        """The best answer."""
        return self.results()[0]

    @property
    def kept(self) -> Prefix | None:
        """What its cache held in the end, where the request was to keep it and it could be."""
        return self._group.kept

    def __iter__(self) -> Reply:
        return self

    def __next__(self) -> str:
        while not self._read:
            if piece := self._piece():
                return piece
            self._wait(tokens=True)
        raise StopIteration

    def __await__(self) -> Generator[Any, None, list[GeneratedText]]:
        """`results`, in a coroutine."""
        yield from self._told(tokens=False).__await__()
        return self.results()

    def __aiter__(self) -> Reply:
        return self

    async def __anext__(self) -> str:
        while not self._read:
            if piece := self._piece():
                return piece
            await self._told(tokens=True)
        raise StopAsyncIteration

    @property
    def count(self) -> int:
        """How many answers there will be."""
        return self._group.request.options.num_return_sequences

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Pieces of all answers as they come, in the place of those of the best one's text.

        Joined, each answer's texts, ids and log-probabilities are those of `results`.
        """
        request, tokenizer = self._group.request, self._model.tokenizer
        texts = [Detokenizer.of(tokenizer, request) for _ in range(self.count)]
        ends = [0] * self.count  # of the ids that were told
        while not self._feed.over:
            for index, ids in enumerate(self._certain()):
                text = texts[index].certain(ids)
                if text:
                    begin, ends[index] = ends[index], len(ids)
                    logprobs = self._group.search.logprobs(index, len(ids))
                    yield Piece(
                        index=index,
                        text=text,
                        ids=ids[begin:],
                        logprobs=logprobs and logprobs[begin:],
                    )
            await self._told(tokens=True)
        for answer in self.results():
            begin = ends[answer.index]
            yield Piece(
                index=answer.index,
                text=texts[answer.index].rest(answer.text),
                ids=answer.ids[begin:],
                logprobs=answer.logprobs and answer.logprobs[begin:],
                finish_reason=answer.finish_reason,
                tool_calls=answer.tool_calls,
            )

    def _piece(self) -> str:
        """What is certain by now and was not given out; at the end, the rest."""
        if not self._feed.over:
            ids = self._certain()
            return self._detokenizer.certain(ids[0]) if ids and self._group.request.ranked else ""
        text = self.result.text
        self._read = True
        return self._detokenizer.rest(text)

    def _certain(self) -> Sequence[Sequence[int]]:
        """The ids of each answer by now; the next wait is for more."""
        ids = self._feed.ids
        self._ids = sum(map(len, ids))
        return ids

    def _wait(self, *, tokens: bool, timeout: float | None = None) -> None:
        event = threading.Event()
        self._feed.call(event.set, tokens=tokens, read=self._ids)
        if not event.wait(timeout):
            raise TimeoutError(f"reply: not done after {timeout:g} s; cancel it, or wait longer")

    async def _told(self, *, tokens: bool) -> None:
        """`_wait`, in a coroutine; where its task is cancelled, so is the request."""
        loop, event = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                loop.call_soon_threadsafe(event.set)

        self._feed.call(wake, tokens=tokens, read=self._ids)
        try:
            await event.wait()
        except asyncio.CancelledError:
            self.cancel()
            raise


async def results_of(replies: Iterable[Reply]) -> list[list[GeneratedText]]:
    """Those of all; where one fails, or the task is cancelled, the others are cancelled."""
    replies = list(replies)
    try:
        return [await reply for reply in replies]
    finally:
        for reply in replies:
            reply.cancel()


class Service:
    """Decodes what any thread asks of a model in one running batch, which requests join and leave.

    At most `rows` sequences at a time, whose caches come to hold `tokens` at most (None: any
    number); the others wait, in their order. Of `requests` (None: any number) that are decoded or
    wait, another one is refused with a ServiceError. For any thread, and as a context, which closes
    it.
    """

    def __init__(
        self,
        model: Model,
        *,
        rows: int = ROWS,
        tokens: int | None = None,
        requests: int | None = REQUESTS,
    ) -> None:
        self._model = model
        self._rows, self._tokens, self._most = rows, tokens, requests
        self._scheduler = self._make_scheduler()
        self._lock = threading.Lock()  # of all below
        self._feeds: dict[Group, _Feed] = {}
        self._thread: threading.Thread | None = None
        self._closed = self._stopped = False

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def requests(self) -> int:
        """How many are decoded or wait."""
        return len(self._feeds)

    @property
    def rows(self) -> int:
        """How many sequences are decoded now."""
        return sum(group.request.rows for group in self._scheduler.running)

    def generate(
        self,
        prompt: str,
        options: DecodeOptions | None = None,
        *,
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> Reply:
        """`Model.generate` for one text. Raises what that does, at once, and ServiceError."""
        return self.submit(
            self._model.text_request(
                prompt,
                options,
                source_language=source_language,
                target_language=target_language,
            )
        )

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        options: DecodeOptions | None = None,
        *,
        tools: Tools | None = None,
    ) -> Reply:
        """`Model.chat`. Raises as `generate`."""
        return self.submit(self._model.chat_request(messages, options, tools=tools))

    def transcribe(
        self,
        clip: str | os.PathLike[str] | NDArray[np.float32],
        options: DecodeOptions | None = None,
        *,
        language: str | None = None,
        task: str = "transcribe",
    ) -> Reply:
        """`Model.transcribe` for one clip. Raises as `generate`."""
        return self.submit(self._model.speech_request(clip, options, language=language, task=task))

    def read(self, image: Picture, options: DecodeOptions | None = None) -> Reply:
        """`Model.read` for one image. Raises as `generate`."""
        return self.submit(self._model.image_request(image, options))

    def submit(self, request: Request) -> Reply:
        """Let a request of `Model.request` be decoded.

        Raises CapacityError for one that can never fit, ServiceError where the service is closed or
        has as many as it takes.
        """
        feed, before = _Feed(), request.on_tokens

        def on_tokens(group: Group) -> None:
            if before is not None:
                before(group)
            feed.on_tokens(group)

        with self._lock:
            if self._closed:
                raise ServiceError("service: closed, it takes no more requests")
            if self._most is not None and len(self._feeds) >= self._most:
                raise ServiceError(
                    f"service: {len(self._feeds)} requests are decoded or wait, it takes no more; "
                    "ask again later"
                )
            group = self._scheduler.submit(dataclasses.replace(request, on_tokens=on_tokens))
            self._feeds[group] = feed
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="seq2edge-service", daemon=True)
                thread.start()
                self._thread = thread
                _WORKING.add(self)
        return Reply(self._model, group, feed)

    def close(self, *, finish: bool = False) -> None:
        """Take no more requests, and wait for the thread to end.

        What was asked for and is not done ends with a ServiceError; with `finish` it is decoded
        first.
        """
        with self._lock:
            self._closed = True
            self._stopped = self._stopped or not finish
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _make_scheduler(self) -> Scheduler:
        return Scheduler(self._model.backend, rows=self._rows, tokens=self._tokens)

    def _work(self) -> None:
        """Decode until nothing is left; the next request starts another thread."""
        going = True
        while going:
            error: BaseException | None = None
            busy = False
            try:
                busy = self._scheduler.step()
            except BaseException as raised:  # noqa: BLE001 - every waiter gets it
                error = raised
            with self._lock:
                if self._stopped and error is None:
                    error = ServiceError("service: closed before this request was done")
                if error is not None:
                    for group in self._feeds:
                        group.fail(error)
                    # Nobody knows what state the other one is in.
                    busy, self._scheduler = False, self._make_scheduler()
                # Also those that were cancelled, or whose time is over, while they wait.
                done = [group for group in self._feeds if not group.check()]
                ended = [self._feeds.pop(group) for group in done]
                going = busy or bool(self._feeds)
                if not going:
                    self._thread = None
                    _WORKING.discard(self)
            for feed in ended:
                feed.end()


_WORKING: set[Service] = set()  # whose threads run


@atexit.register
def _close_all() -> None:
    """End the threads before Python ends: one that it stops inside of a library would crash."""
    for service in list(_WORKING):
        service.close()
