"""Groups that are decoded together on one cache, a call of the graph a step."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import cast

import numpy as np

from seq2edge.errors import CapacityError, Seq2EdgeError
from seq2edge.runtime.backend import (
    AligningCache,
    Answer,
    Backend,
    Cache,
    Candidates,
    Lengths,
    Memory,
    RunningCache,
    SavedCache,
    Tokens,
    all_logits,
)
from seq2edge.runtime.candidates import LargestLogits
from seq2edge.runtime.group import Group
from seq2edge.runtime.request import Prefix, Request
from seq2edge.runtime.search import Choice
from seq2edge.runtime.sequences import pad, pad_sources

CHUNK = 512  # tokens of a prompt that are read between two steps of the others
FAILURES = (Seq2EdgeError, MemoryError)  # of a batch, which end its requests and no others


def failure(error: Seq2EdgeError | MemoryError) -> Seq2EdgeError:
    """What a request raises whose batch ended so."""
    if isinstance(error, Seq2EdgeError):
        return error
    return CapacityError(f"memory: there is none left for this batch ({error}); ask for less")


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
                group.fail(failure(error))
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


def _encode(backend: Backend, groups: list[Group]) -> Memory | None:
    """The encoder's memory of the groups' sources, None where they have none."""
    requests = [group.request for group in groups]
    if requests[0].memory is not None:
        return requests[0].memory
    sources = [request.source for request in requests if request.source is not None]
    if not sources:
        return None
    return backend.encode(*pad_sources(sources, [request.positions for request in requests]))
