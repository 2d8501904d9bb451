"""A backend without a model, for tests of decoding and of applications.

What it answers is a function of each row's history, so that a test knows every logit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import BackendError, CapacityError
from seq2edge.runtime.backend import Answer, Candidates, Features, Lengths, Logits, Tokens
from seq2edge.runtime.likelihood import log_sum_exp

Ids: TypeAlias = tuple[int, ...]
Answering: TypeAlias = Callable[[Ids, Ids | None], NDArray[np.floating]]
Aligning: TypeAlias = Callable[[Ids, Ids], NDArray[np.floating]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """One call of the backend or its cache: its name and the rows it was made for."""

    name: str
    rows: int
    tokens: tuple[Ids, ...] = ()


def random_answer(vocab: int, seed: int = 0, spread: float = 2.0) -> Answering:
    """Logits (vocab,) drawn afresh for every history and source, the same in every run."""

    def answer(history: Ids, source: Ids | None) -> NDArray[np.floating]:
        key = (seed, 1 if source is None else 2, len(history), *history, *(source or ()))
        return np.random.default_rng(key).standard_normal(vocab) * spread

    return answer


class FakeCache:
    """The tokens that each row has seen."""

    def __init__(self, backend: FakeBackend, sources: list[Ids | None], limit: int | None) -> None:
        self.histories: list[Ids] = [() for _ in sources]
        self.sources = sources
        self.inputs = len(sources)
        self.steps = 0
        self.alignment: NDArray[np.float32]
        self._backend = backend
        self._limit = limit

    @property
    def length(self) -> Lengths:
        """See Cache."""
        return np.array([len(history) for history in self.histories], dtype=np.int64)

    def reorder(self, rows: NDArray[np.int64]) -> None:
        """See Cache."""
        self._backend.calls.append(Call(name="reorder", rows=len(rows)))
        self.histories = [self.histories[row] for row in rows]
        self.sources = [self.sources[row] for row in rows]

    def rewind(self, length: int) -> None:
        """See Cache."""
        self.histories = [history[:length] for history in self.histories]

    def keep(self, inputs: NDArray[np.int64]) -> None:
        """See RunningCache."""
        self._backend.calls.append(Call(name="keep", rows=len(inputs)))
        width = len(self.histories) // self.inputs
        rows = [i * width + row for i in inputs.tolist() for row in range(width)]
        self.histories = [self.histories[row] for row in rows]
        self.sources = [self.sources[row] for row in rows]
        self.inputs = len(inputs)

    def join(self, other: FakeCache) -> None:
        """See RunningCache."""
        self._backend.calls.append(Call(name="join", rows=len(other.histories)))
        if len(self.histories) * other.inputs != len(other.histories) * self.inputs:
            raise BackendError("join: the other cache has another number of rows an input")
        self.histories += other.histories
        self.sources += other.sources
        self.inputs += other.inputs

    def append(self, tokens: Tokens, new_length: Lengths) -> None:
        """Add each row's valid tokens."""
        if self._limit is not None and int((self.length + new_length).max()) > self._limit:
            raise CapacityError(f"capacity: more than the {self._limit} tokens that were set")
        for row, (new, count) in enumerate(zip(tokens.tolist(), new_length, strict=True)):
            self.histories[row] += tuple(new[: int(count)])
        self.steps += 1


class FakeBackend:
    """A Backend whose logits are `answer(history, source)`; `calls` records what was asked.

    With a `top_k` a step answers with so many candidates, in no useful order and of equal logits
    the last, as a backend may; that all logits were fetched is a call too. With an `alignment` its
    caches tell what each row attends to: `alignment(history, source)`, a weight for each position.
    """

    name = "fake"
    capacity: int | None = None
    rows: int | None = None

    def __init__(
        self,
        answer: Answering,
        *,
        top_k: int = 0,
        running: bool = True,
        verifies: bool = True,
        alignment: Aligning | None = None,
    ) -> None:
        self.answer = answer
        self.alignment = alignment
        self.aligns = alignment is not None
        self.running = running
        self.verifies = verifies
        self.top_k = top_k
        self.calls: list[Call] = []

    def encode(self, source: Tokens | Features, source_length: Lengths) -> list[Ids | None]:
        """See Backend. Features become the ids of their first mel band, rounded."""
        plain = np.asarray(source if source.ndim == 2 else source[:, 0]).astype(np.int64)
        self.calls.append(Call(name="encode", rows=len(plain)))
        return [_valid(row, count) for row, count in zip(plain, source_length, strict=True)]

    def start(self, memory: list[Ids | None] | None, rows: int, capacity: int | None) -> FakeCache:
        """See Backend."""
        self.calls.append(Call(name="start", rows=rows))
        sources = [None] * rows if memory is None else memory
        spread = [sources[row * len(sources) // rows] for row in range(rows)]
        return FakeCache(self, spread, capacity)

    def step(
        self, tokens: Tokens, new_length: Lengths, cache: FakeCache, positions: int = 1
    ) -> Answer:
        """See Backend."""
        assert self.verifies or positions == 1, "it answers the last token alone"
        fed = tuple(_valid(row, n) for row, n in zip(tokens, new_length, strict=True))
        self.calls.append(Call(name="step", rows=len(tokens), tokens=fed))
        cache.append(tokens, new_length)
        lines = [
            (history[: len(history) - back], source)
            for history, source in zip(cache.histories, cache.sources, strict=True)
            for back in reversed(range(positions))
        ]
        logits = np.array([self.answer(*line) for line in lines], dtype=np.float32)
        if self.alignment is not None:
            cache.alignment = _aligned(self.alignment, lines)
        return self._candidates(logits, cache) if self.top_k else logits

    def _candidates(self, logits: Logits, cache: FakeCache) -> Candidates:
        ids = np.argsort(logits, axis=1, kind="stable")[:, -self.top_k :]
        step = cache.steps

        def fetch() -> Logits:
            if cache.steps != step:
                raise BackendError("logits: those of a step before the last, ask for them at once")
            self.calls.append(Call(name="logits", rows=len(logits)))
            return logits

        return Candidates(
            values=np.take_along_axis(logits, ids, axis=1),
            ids=ids,
            log_sum_exp=log_sum_exp(logits),
            vocab=logits.shape[1],
            logits=fetch,
        )

    def pool(
        self, source: Tokens, source_length: Lengths, token_types: Tokens | None = None
    ) -> NDArray[np.float32]:
        """See Backend. What is answered depends on the types, where not all of them are 0.

        An answer to each token (source, values) is padded with 0 to the longest source.
        """
        self.calls.append(Call(name="pool", rows=len(source)))
        types = np.zeros_like(source) if token_types is None else token_types
        answers = []
        for row, length, kinds in zip(source, source_length, types, strict=True):
            history = _valid(kinds, length) if kinds.any() else ()
            answer = self.answer(history, _valid(row, length))
            room = [(0, source.shape[1] - int(length)), (0, 0)] if answer.ndim > 1 else [(0, 0)]
            answers.append(np.pad(answer, room))
        return np.array(answers, dtype=np.float32)


def _aligned(alignment: Aligning, lines: list[tuple[Ids, Ids | None]]) -> NDArray[np.float32]:
    """The weights of each line, padded with 0 (lines, source)."""
    longest = max(len(source or ()) for _, source in lines)
    weights = np.zeros((len(lines), longest), dtype=np.float32)
    for i, (history, source) in enumerate(lines):
        if source is not None:
            weights[i, : len(source)] = alignment(history, source)
    return weights


def _valid(row: NDArray[np.int64], count: int) -> Ids:
    return tuple(row[: int(count)].tolist())
