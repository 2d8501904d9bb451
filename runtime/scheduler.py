"""Requests that are decoded together: they join a running batch and leave it at any step.

A request is a group of rows: one, its beams, or what is drawn for it. Groups of equally many rows
share one cache and each call of the graph. What a request gets does not depend on the others.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import CapacityError, Seq2EdgeError
from seq2edge.runtime.backend import (
    AligningCache,
    Answer,
    Backend,
    Cache,
    Candidates,
    Lengths,
    Logits,
    Memory,
    RunningCache,
    SavedCache,
    Tokens,
    all_logits,
)
from seq2edge.runtime.beam import BeamSearch
from seq2edge.runtime.candidates import LargestLogits
from seq2edge.runtime.memory import allocating
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.search import Choice, HoldsStop, Processor, RowSearch, Search
from seq2edge.runtime.sequences import (
    FinishReason,
    GeneratedSequence,
    History,
    Source,
    Usage,
    common_length,
    is_signal,
    pad,
    pad_sources,
)
from seq2edge.runtime.speculation import Drafter

ROWS = 64  # that are decoded at a time, where nobody says
ENCODED = 8  # sources that are encoded at a time
CHUNK = 512  # tokens of a prompt that are read between two steps of the others


FAILURES = (Seq2EdgeError, MemoryError)  # of a batch, which end its requests and no others


def _failure(error: Seq2EdgeError | MemoryError) -> Seq2EdgeError:
    if isinstance(error, Seq2EdgeError):
        return error
    return CapacityError(f"memory: there is none left for this batch ({error}); ask for less")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prefix:
    """A cache of one row that holds these ids, for prompts which begin with some of them."""

    ids: tuple[int, ...]
    cache: Cache


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One input and how to decode it.

    `prompt` are the ids that a decoder-only model goes on from, or those that the decoder of an
    encoder-decoder starts from; the latter reads `source`: ids, or features (mels, frames), samples
    (length,) or pixels (channels, height, width) of `positions` encoder positions. At most
    `max_new_tokens` are generated. `processors` change scores after the filters of the options; of
    the vocabulary (vocab,) nothing is generated but what is `allowed`; `holds_stop` says whether
    generated ids end in a stop string. `prefix` holds the first tokens of the prompt, and is spent;
    with `keep`, what the cache holds in the end is there for another request. `drafter` guesses
    tokens, for a request of one row and a backend that verifies them. `on_tokens` is called after
    every token, in the thread of whoever takes the step; what it or a processor raises ends this
    request alone. `on_prompt` is called with the logits (vocab,) that follow the prompt without its
    last `after` tokens, which it may answer with others. With `holds_memory`, a group that was
    decoded alone has the encoder's memory of its source in the end, which spares another request
    the encoder as its `memory`.
    """

    prompt: Sequence[int]
    source: Source | None = None
    positions: int = 0
    options: DecodeOptions
    max_new_tokens: int
    processors: Sequence[Processor] = ()
    allowed: NDArray[np.bool_] | None = None
    holds_stop: HoldsStop | None = None
    prefix: Prefix | None = None
    keep: bool = False
    drafter: Drafter | None = None
    on_tokens: Callable[[Group], None] | None = None
    on_prompt: Callable[[Logits], Sequence[int] | None] | None = None
    after: int = 0
    holds_memory: bool = False
    memory: Memory | None = None

    @property
    def rows(self) -> int:
        """How many sequences are decoded for it at a time."""
        return rows_of(self.options)

    @property
    def ranked(self) -> bool:
        """Whether the best of its answers is known before the end: not of several drawn ones."""
        return self.rows == 1 or self.options.num_beams > 1

    @property
    def source_length(self) -> int:
        """Positions of its source, 0 where it has none."""
        if self.source is None:
            return 0
        return self.positions if is_signal(self.source) else len(self.source)

    @property
    def tokens(self) -> int:
        """The most tokens that its rows' caches come to hold."""
        return self.rows * (len(self.prompt) + self.max_new_tokens)

    def with_prefix(self, prefix: Prefix) -> Request:
        """The same, which does not compute again what its prompt and a prefix begin with."""
        # One token is left to read: what follows it is what the answer begins with.
        same = min(common_length(prefix.ids, self.prompt), len(self.prompt) - 1)
        prefix.cache.rewind(same)
        kept = Prefix(ids=tuple(self.prompt[:same]), cache=prefix.cache)
        return dataclasses.replace(self, prefix=kept)


class Group:
    """A request on its way: its history, the search that chooses for it, and how it ended."""

    def __init__(self, request: Request) -> None:
        self.request = request
        ids = () if is_signal(request.source) else cast("Sequence[int] | None", request.source)
        self.history = History(request.prompt, request.rows, request.max_new_tokens, ids)
        kind = BeamSearch if request.options.num_beams > 1 else RowSearch
        self.search: Search = kind(
            self.history,
            request.options,
            processors=request.processors,
            allowed=request.allowed,
            holds_stop=request.holds_stop,
        )
        self.error: BaseException | None = None
        self.kept: Prefix | None = None  # where the request asked for it
        self.memory: Memory | None = None  # the same, of one that was decoded alone
        self.steps = self.guessed = self.right = 0  # calls of the graph; tokens guessed, and right
        self._begin = time.monotonic()
        self._first = self._end = 0.0  # when the first token was chosen, and the last
        limit = request.options.max_time
        self._deadline = None if limit is None else self._begin + limit
        self._cancelled = False

    @property
    def done(self) -> bool:
        """Whether nothing more will be decoded."""
        return self.error is not None or self.search.done

    def cancel(self) -> None:
        """Let it end at the next step, with what there is. From any thread."""
        self._cancelled = True

    def results(self) -> list[GeneratedSequence]:
        """Its sequences, best first. Raises the error that ended it."""
        if self.error is not None:
            raise self.error
        usage = self.usage()
        return [dataclasses.replace(each, usage=usage) for each in self.search.results()]

    def usage(self) -> Usage:
        """What it took so far."""
        request = self.request
        return Usage(
            prompt_tokens=len(request.prompt),
            reused_tokens=0 if request.prefix is None else len(request.prefix.ids),
            steps=self.steps,
            guessed_tokens=self.guessed,
            accepted_tokens=self.right,
            first_token_seconds=max(0.0, self._first - self._begin),
            seconds=max(0.0, self._end - self._begin),
        )

    def check(self) -> bool:
        """Whether it goes on: it is neither done, nor cancelled, nor out of time."""
        if self._cancelled:
            self._stop("cancelled")
        elif self._deadline is not None and time.monotonic() > self._deadline:
            self._stop("time")
        return not self.done

    def guesses(self) -> list[int]:
        """What the request's drafter thinks comes next; nothing where it has none."""
        drafter = self.request.drafter
        room = self.history.limit - self.history.generated - 1
        if drafter is None or room < 1:
            return []
        return drafter.guess(self.history.tokens[0], room)

    def verified(self, guessed: int, right: int) -> None:
        """So many of the last guesses were right."""
        self.guessed, self.right = self.guessed + guessed, self.right + right
        if self.request.drafter is not None:
            self.request.drafter.verified(guessed, right)

    def fail(self, error: BaseException) -> None:
        """Let it end with this error, unless it ended already."""
        if not self.done:
            self.error = error

    def _stop(self, reason: FinishReason) -> None:
        if not self.done:
            self.search.stop(reason)

    def read(self, logits: Logits) -> None:
        """Tell the request what follows its prompt so far (vocab,); it may change the rest."""
        request = self.request
        assert request.on_prompt is not None
        try:
            rest = request.on_prompt(logits)
        except Exception as error:  # noqa: BLE001 - of the caller's code; `results` raises it
            self.error = error
            return
        if rest is not None:
            assert len(rest) == request.after
            before = request.prompt[: len(request.prompt) - request.after]
            self.request = dataclasses.replace(request, prompt=(*before, *rest))
            self.history.tokens[:, : self.history.start] = self.request.prompt

    def choose(self, answer: Answer) -> Choice:
        """The rows to go on from and their tokens, now also in the history."""
        if isinstance(answer, Candidates) and answer.alignment is not None:
            answer = dataclasses.replace(
                answer, alignment=answer.alignment[..., : self.request.source_length]
            )
        try:
            parents, tokens = self.search.choose(answer)
            self.history.append(tokens, parents)
            self._end = time.monotonic()
            self._first = self._first or self._end
            if self.request.on_tokens is not None:
                self.request.on_tokens(self)
        except Exception as error:  # noqa: BLE001 - of the caller's code; `results` raises it
            self.error = error
            return None, [0] * self.request.rows
        return parents, tokens


class Batch:
    """Groups of equally many rows on one cache, from reading their prompts to their last token."""

    def __init__(self, backend: Backend, groups: list[Group]) -> None:
        """Encode the sources and begin with an empty cache."""
        self.groups = groups
        self.width = groups[0].request.rows
        self._backend = backend
        self._largest = LargestLogits()
        prefix = groups[0].request.prefix
        read = 0 if prefix is None else len(prefix.ids)
        self._to_read = _parts([group.request for group in groups], read)
        if prefix is not None:
            self.cache: Cache = prefix.cache
        else:
            memory = _encode(backend, groups)
            self.cache = backend.start(memory, len(groups), groups[0].request.options.capacity)
            if len(groups) == 1 and groups[0].request.holds_memory:
                groups[0].memory = memory
        self._tokens: Tokens = np.empty((0, 1), dtype=np.int64)  # of each row, what it goes on with
        self._new_length: Lengths = np.empty(0, dtype=np.int64)

    @property
    def reading(self) -> bool:
        """Whether tokens of prompts remain to be read before a first token is chosen."""
        return bool(self._to_read)

    def step(self) -> None:
        """One call of the graph: more of the prompts, or each row's next token."""
        try:
            if not self.reading:
                self._generate()
            elif any(group.check() for group in self.groups):
                self._read_prompts()
            else:
                self.groups = []
        except FAILURES as error:
            for group in self.groups:
                group.fail(_failure(error))
            self.groups = []

    def _read_prompts(self) -> None:
        """The next part of the prompts; behind the last one all rows begin."""
        part = self._to_read.popleft()
        prompts = [group.request.prompt[part.of(group)] for group in self.groups]
        answer = self._backend.step(*pad(prompts), self.cache)
        self._count_step()
        if part.told:
            for group, logits in zip(self.groups, all_logits(answer), strict=True):
                group.read(logits)
        if not self.reading:
            self._go_on(answer, first=True)

    def _generate(self) -> None:
        """Each row's next token; of one row, as many as were guessed and one more."""
        guesses = self.groups[0].guesses()
        self._count_step()
        if guesses:
            self._verify(guesses)
        else:
            answer = self._backend.step(self._tokens, self._new_length, self.cache)
            self._go_on(answer, first=False)

    def _count_step(self) -> None:
        for group in self.groups:
            group.steps += 1

    def _go_on(self, answer: Answer, *, first: bool) -> None:
        """Choose, let go who is done, and put the rows in the order in which they go on."""
        choices = self._choose(answer, first=first)
        order = self._leave()
        if order is not None:
            choices = [choices[i] for i in order]
        self._feed([token for _, tokens in choices for token in tokens])
        if self.groups and self.width > 1:
            self._reorder([parents for parents, _ in choices], first=first)

    def _verify(self, guesses: list[int]) -> None:
        """Feed the only row its token and what was guessed behind it; keep what is right."""
        (group,) = self.groups
        before = int(self.cache.length[0])
        tokens = np.array([[*self._tokens[0].tolist(), *guesses]], dtype=np.int64)
        count = tokens.shape[1]
        answer = self._backend.step(tokens, np.array([count]), self.cache, count)
        lines = self._candidates(answer)
        token = right = 0
        if group.check():
            for right in range(count):
                _, (token,) = group.choose(lines.part(right, right + 1))
                if group.done or right == len(guesses) or token != guesses[right]:
                    break
        group.verified(len(guesses), right)
        self.cache.rewind(before + 1 + right)
        self._leave()
        self._feed([token] if self.groups else [])

    def _feed(self, tokens: list[int]) -> None:
        """What the rows go on with."""
        self._tokens = np.array(tokens, dtype=np.int64)[:, None]
        if len(tokens) != len(self._new_length):
            self._new_length = np.ones(len(tokens), dtype=np.int64)

    def _reorder(self, parents: list[list[int] | None], *, first: bool) -> None:
        """Put the rows of all groups in the order in which they go on."""
        width, stay = self.width, range(self.width)
        if first:  # the prompts were read once an input: this choice spreads them over the rows
            rows = [i for i in range(len(parents)) for _ in stay]
        elif any(parents):
            rows = [i * width + row for i, mine in enumerate(parents) for row in mine or stay]
        else:
            return
        self.cache.reorder(np.array(rows, dtype=np.int64))

    def _choose(self, answer: Answer, *, first: bool) -> list[Choice]:
        """Which of its rows each group goes on from, and the tokens."""
        lines = self._candidates(answer)
        if len(self.groups) > 1:  # all logits travel once, whoever needs them
            lines = dataclasses.replace(lines, logits=functools.cache(lines.logits))
        rows = 1 if first else self.width
        choices: list[Choice] = []
        for i, group in enumerate(self.groups):
            if not group.check():
                choices.append((None, [0] * self.width))
                continue
            mine = lines.part(i * rows, (i + 1) * rows) if len(self.groups) > 1 else lines
            choices.append(group.choose(mine.repeat(self.width) if rows < self.width else mine))
        return choices

    def _candidates(self, answer: Answer) -> Candidates:
        """What tokens are chosen from, also where the backend gives all logits."""
        if not isinstance(answer, Candidates):
            answer = self._largest(answer, max(group.search.wanted for group in self.groups))
        if self._backend.aligns and any(g.request.options.alignments for g in self.groups):
            alignment = cast("AligningCache", self.cache).alignment
            answer = dataclasses.replace(answer, alignment=alignment)
        return answer

    def _leave(self) -> list[int] | None:
        """Let groups go that are done; where those that go on were, None where all are.

        Of a cache that does not let go, all stay until the last one is done.
        """
        leaving = [i for i, group in enumerate(self.groups) if group.done]
        if not leaving:
            return None
        for i in leaving:
            if self.groups[i].request.keep and self.groups[i].error is None:
                self._keep(i)
        kept = len(self.groups) - len(leaving)
        if kept and not self._backend.running:
            return None
        # The last ones take the places of those that leave, so that few rows move.
        order = list(range(kept))
        last = [i for i in range(kept, len(self.groups)) if not self.groups[i].done]
        for hole, place in zip(leaving, last, strict=False):
            order[hole] = place
        self.groups = [self.groups[i] for i in order]
        if order:
            cast("RunningCache", self.cache).keep(np.array(order, dtype=np.int64))
        return order

    def _keep(self, place: int) -> None:
        """Leave the cache to the group's next request: of several rows what they have in common.

        Of other groups' cache a copy, where there is memory for it and it can be read.
        """
        group, row = self.groups[place], place * self.width
        ids = group.history.tokens[0].tolist()
        length = len(group.request.prompt) if self.width > 1 else int(self.cache.length[row])
        if len(self.groups) == 1:
            if self.width > 1:
                self.cache.reorder(np.zeros(1, dtype=np.int64))
            self.cache.rewind(length)
            group.kept = Prefix(ids=tuple(ids[:length]), cache=self.cache)
        elif self._backend.running and isinstance(self.cache, SavedCache):
            with contextlib.suppress(*FAILURES):
                cache = cast("SavedCache", self._backend.start(None, 1, None))
                values = self.cache.read(row)
                cache.write({name: each[:, :length] for name, each in values.items()}, length)
                group.kept = Prefix(ids=tuple(ids[:length]), cache=cache)

    def join(self, other: Batch) -> None:
        """Its groups come behind these; both have read their prompts."""
        for group in (*self.groups, *other.groups):
            group.memory = None  # it is that of several from now on
        cast("RunningCache", self.cache).join(other.cache)
        self.groups += other.groups
        self._feed([*self._tokens[:, 0].tolist(), *other._tokens[:, 0].tolist()])


@dataclasses.dataclass(frozen=True)
class _Part:
    """What one call reads of each prompt, in tokens from its end, and whether the groups are told.

    From the end, since prompts are not equally long but what is read last is: 0 is the end.
    """

    first: int | None  # None: the beginning
    last: int
    told: bool

    def of(self, group: Group) -> slice:
        """The same as places of a group's prompt."""
        length = len(group.request.prompt)
        return slice(None if self.first is None else length - self.first, length - self.last)


def _parts(requests: Sequence[Request], read: int) -> collections.deque[_Part]:
    """How prompts are read whose first tokens are `read`: in chunks, if it is one alone."""
    # Parts of several prompts would be slow where a graph takes them only column by column.
    first = requests[0]
    asks, after = first.on_prompt is not None, first.after
    ends = {0, after} if asks else {0}
    if len(requests) == 1:
        length = len(first.prompt)
        ends |= {length - end for end in range(read + CHUNK, length, CHUNK)}
    places = sorted(ends, reverse=True)
    begins = [len(first.prompt) - read if read else None, *places]
    return collections.deque(
        _Part(begin, end, asks and end == after) for begin, end in zip(begins, places, strict=False)
    )


class Scheduler:
    """Decodes requests together: `submit` them, then `step` until nothing is left, or `run`.

    At most `rows` sequences are decoded at a time, whose caches come to hold `tokens` at most
    (None: any number). What does not fit now waits, and is taken in its order. `submit` and
    `Group.cancel` are for any thread, all else is for one at a time.
    """

    def __init__(self, backend: Backend, *, rows: int = ROWS, tokens: int | None = None) -> None:
        self._backend = backend
        self._rows, self._tokens = rows, tokens
        self._waiting: collections.deque[Group] = collections.deque()
        self._lock = threading.Lock()  # of what waits
        self._batches: list[Batch] = []

    def submit(self, request: Request) -> Group:
        """Let it be decoded; the result is its state. Raises CapacityError if it can never fit.

        From any thread.
        """
        for name, needed, most in (
            ("rows", request.rows, self._rows),
            ("tokens", request.tokens, self._tokens),
        ):
            if most is not None and needed > most:
                raise CapacityError(
                    f"{name}: this request needs {needed}, the scheduler takes {most} at a time"
                )
        length = len(request.prompt) + request.max_new_tokens
        with allocating(8 * request.rows * length, f"{request.rows:,} rows of {length:,} tokens"):
            group = Group(request)
        with self._lock:
            self._waiting.append(group)
        return group

    @property
    def running(self) -> list[Group]:
        """What is decoded now. For any thread."""
        return [group for batch in self._batches for group in batch.groups]

    def run(self) -> None:
        """Until every request is done."""
        while self.step():
            pass

    def step(self) -> bool:
        """Admit who fits, and take one step of everything; whether anything is left to do."""
        if self._waiting:
            for groups in self._admitted():
                self._begin(groups)
        for batch in self._batches:
            batch.step()
        if len(self._batches) > 1 or not all(batch.groups for batch in self._batches):
            self._merge()
        return bool(self._batches or self._waiting)

    def _begin(self, groups: list[Group]) -> None:
        """Let these be decoded together."""
        try:
            self._batches.append(Batch(self._backend, groups))
        except FAILURES as error:
            for group in groups:
                group.fail(_failure(error))

    def _admitted(self) -> Iterator[list[Group]]:
        """Waiting groups that fit, in lists of a kind that read about equally much."""
        by_kind: dict[Kind, list[Group]] = {}
        with self._lock:
            for group in self._fitting():
                by_kind.setdefault(_kind(group), []).append(group)
        for groups in by_kind.values():
            yield from _alike(groups) if self._backend.running else [groups]

    def _fitting(self) -> Iterator[Group]:
        """Those that wait no longer, in their order."""
        running = self.running
        rows = self._rows - sum(group.request.rows for group in running)
        tokens = (self._tokens or 0) - sum(group.request.tokens for group in running)
        if running and rows < self._rows // 4 < sum(g.request.rows for g in self._waiting):
            return  # a few at a time would each cost a call of the encoder
        while self._waiting:
            request = self._waiting[0].request
            if request.rows > rows or (self._tokens is not None and request.tokens > tokens):
                break
            group = self._waiting.popleft()
            if group.check():
                rows, tokens = rows - request.rows, tokens - request.tokens
                yield group

    def _merge(self) -> None:
        """Make one batch of those of a kind that have read their prompts."""
        merged: list[Batch] = []
        by_kind: dict[Kind, Batch] = {}
        for batch in self._batches:
            if not batch.groups:
                continue
            if not self._backend.running or batch.reading:
                merged.append(batch)
                continue
            kind = _kind(batch.groups[0])
            if kind in by_kind:
                by_kind[kind].join(batch)
            else:
                by_kind[kind] = batch
                merged.append(batch)
        self._batches = merged


def rows_of(options: DecodeOptions) -> int:
    """How many sequences are decoded at a time for a request of these options."""
    drawn = options.do_sample and options.num_beams == 1
    return options.num_return_sequences if drawn else options.num_beams


# What groups of one batch have in common; whose tokens are guessed, or whose source was encoded
# before, shares none.
Kind: TypeAlias = "tuple[int, int | None, Group | None, int | None]"


def _kind(group: Group) -> Kind:
    request = group.request
    alone = group if request.drafter is not None or request.memory is not None else None
    after = request.after if request.on_prompt is not None else None
    return request.rows, request.options.capacity, alone, after


def _alike(groups: list[Group]) -> Iterator[list[Group]]:
    """A few at a time, sorted by how much they read, so that little of a call is padding."""
    part: list[Group] = []
    for group in sorted(groups, key=_read_length):
        length = _read_length(group)
        if part and (
            len(part) == ENCODED
            or length > 8 + 1.25 * _read_length(part[0])
            or len(group.request.prompt) > CHUNK
            or group.request.prefix is not None
            or part[0].request.prefix is not None
        ):
            yield part
            part = []
        part.append(group)
    if part:
        yield part


def _read_length(group: Group) -> int:
    """How many tokens are read before the first one is chosen, most of all."""
    source = group.request.source
    return len(group.request.prompt if source is None else source)


def _encode(backend: Backend, groups: list[Group]) -> Memory | None:
    """The encoder's memory of the groups' sources, None where they have none."""
    requests = [group.request for group in groups]
    if requests[0].memory is not None:
        return requests[0].memory
    sources = [request.source for request in requests if request.source is not None]
    if not sources:
        return None
    return backend.encode(*pad_sources(sources, [request.positions for request in requests]))


def decode(
    backend: Backend, requests: Sequence[Request], *, rows: int = ROWS
) -> list[list[GeneratedSequence]]:
    """Decode requests together, `rows` sequences at a time; for each its own, best first.

    Raises CapacityError where a fixed capacity does not hold a sequence, BackendError where the
    model answers NaN.
    """
    scheduler = Scheduler(backend, rows=max([rows, *(request.rows for request in requests)]))
    groups = [scheduler.submit(request) for request in requests]
    scheduler.run()
    return [group.results() for group in groups]
