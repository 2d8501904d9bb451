"""Requests that are decoded together: they join a running batch and leave it at any step.

A request is a group of rows: one, its beams, or what is drawn for it. Groups of equally many rows
share one cache and each call of the graph. What a request gets does not depend on the others.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from seq2edge.errors import CapacityError
from seq2edge.runtime.backend import Backend
from seq2edge.runtime.batch import CHUNK, FAILURES, Batch, failure
from seq2edge.runtime.group import Group
from seq2edge.runtime.memory import allocating
from seq2edge.runtime.request import Request
from seq2edge.runtime.sequences import GeneratedSequence

ROWS = 64  # that are decoded at a time, where nobody says
ENCODED = 8  # sources that are encoded at a time
# What groups of one batch have in common; whose tokens are guessed, or whose source was encoded
# before, shares none.
Kind: TypeAlias = "tuple[int, int | None, Group | None, int | None]"


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
                group.fail(failure(error))

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
