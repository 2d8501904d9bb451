"""A cache whose rows' inputs and tokens are known, so that every answer can be checked.

What a row should answer is asked of the same backend in the plainest way: that input alone, all
tokens in one call.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import CapacityError
from seq2edge.runtime.backend import (
    AligningCache,
    Answer,
    Backend,
    Cache,
    Features,
    Lengths,
    Logits,
    Memory,
    RunningCache,
    Tokens,
    all_logits,
)
from seq2edge.runtime.sequences import pad, pad_sources
from seq2edge.testing.examples import Examples

Ids: TypeAlias = "tuple[int, ...]"


class DifferenceError(Exception):
    """What a backend did otherwise than it should."""


def filled(tokens: Tokens | Features, lengths: Lengths) -> Any:
    """The same rows, behind each its own tokens again."""
    ids = zip(tokens, lengths.tolist(), strict=True)
    return np.stack([np.resize(row[:length], len(row)) for row, length in ids])


class Trial:
    """A backend and what it is tried with."""

    def __init__(self, backend: Backend, examples: Examples) -> None:
        self.backend, self.examples = backend, examples
        self.prompts: list[Ids] = [tuple(prompt) for prompt in examples.prompts]
        self.inputs = range(len(self.prompts))
        self._more = itertools.cycle([token for prompt in self.prompts for token in prompt])
        self._known: dict[tuple[int, Ids], Logits] = {}
        self._attended: dict[tuple[int, Ids], NDArray[np.float32]] = {}

    def tokens(self, count: int) -> list[int]:
        """Some to go on with, others than the last time."""
        return list(itertools.islice(self._more, count))

    def memory(self, inputs: Sequence[int], *, fill: bool = False) -> Memory | None:
        """What the encoder makes of the sources of these inputs."""
        if self.examples.sources is None:
            return None
        return self.backend.encode(*self.sources(inputs, fill=fill))

    def sources(self, inputs: Sequence[int], *, fill: bool = False) -> tuple[Any, Lengths]:
        """Those of these inputs, as ids or samples also with others behind them."""
        assert self.examples.sources is not None
        chosen = [self.examples.sources[i] for i in inputs]
        source, lengths = pad_sources(chosen, [self.examples.positions] * len(chosen))
        if fill and source.ndim == 2:
            source = filled(source, lengths)
        return source, lengths

    def read(self, inputs: Sequence[int]) -> Tracked:
        """A cache that has read the prompts of these inputs."""
        tracked = Tracked(self, inputs)
        tracked.read([self.prompts[i] for i in inputs])
        return tracked

    def alone(self, input_: int, ids: Ids) -> Logits:
        """What follows these tokens of an input, asked in one call (vocab,)."""
        if (input_, ids) not in self._known:
            cache = self.backend.start(self.memory([input_]), 1, None)
            logits = all_logits(self.backend.step(*pad([ids]), cache))
            self._known[input_, ids] = logits[0].copy()
            if self.backend.aligns:
                self._attended[input_, ids] = cast("AligningCache", cache).alignment[0].copy()
        return self._known[input_, ids]

    def attended(self, input_: int, ids: Ids) -> NDArray[np.float32]:
        """What the last of these tokens attends to, asked in one call ([heads,] source)."""
        self.alone(input_, ids)
        return self._attended[input_, ids]

    def same(self, found: NDArray[Any], wanted: NDArray[Any], what: str) -> None:
        """Raise DifferenceError unless these agree within the tolerance, and on the largest."""
        if found.shape != wanted.shape:
            raise DifferenceError(f"{what}: shape {found.shape}, should be {wanted.shape}")
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            error = float(np.abs(found - wanted).max())
        if not error <= self.examples.tolerance:
            raise DifferenceError(
                f"{what}: differs by {error:.3g}, allowed are {self.examples.tolerance:.3g}"
            )
        if found.argmax() != wanted.argmax():
            raise DifferenceError(
                f"{what}: {found.argmax()} is the largest, should be {wanted.argmax()}"
            )


class Tracked:
    """A cache, the input of its rows and the tokens that each of them has read."""

    def __init__(
        self,
        trial: Trial,
        inputs: Sequence[int],
        *,
        capacity: int | None = None,
        fill: bool = False,
    ) -> None:
        self._trial, self._fill = trial, fill
        self.inputs = list(inputs)
        self.rows: list[Ids] = [() for _ in inputs]
        memory = trial.memory(inputs, fill=fill)
        self.cache: Cache = trial.backend.start(memory, len(self.rows), capacity)

    @property
    def width(self) -> int:
        """Rows of an input."""
        return len(self.rows) // len(self.inputs)

    def read(self, parts: Sequence[Sequence[int]]) -> Answer:
        """These tokens for each row, whose logits have to be the right ones."""
        tokens, new_length = pad(parts)
        if self._fill:
            tokens = filled(tokens, new_length)
        answer = self._trial.backend.step(tokens, new_length, self.cache)
        self.rows = [(*row, *part) for row, part in zip(self.rows, parts, strict=True)]
        logits = all_logits(answer).copy()
        if self._trial.backend.aligns:
            self._check_alignment(cast("AligningCache", self.cache).alignment)
        self.check(logits)
        return answer

    def verify(self, ids: Sequence[int], positions: int) -> Answer:
        """These for the only row; what follows each of the last `positions` has to be right."""
        answer = self._trial.backend.step(*pad([ids]), self.cache, positions)
        self.rows = [(*self.rows[0], *ids)]
        self.check(all_logits(answer).copy(), positions)
        return answer

    def _check_alignment(self, alignment: NDArray[np.float32]) -> None:
        """Raise DifferenceError unless each row attends to its own source, as it does alone."""
        tolerance = self._trial.examples.tolerance
        if alignment.ndim not in (2, 3) or len(alignment) != len(self.rows):
            raise DifferenceError(f"alignment: {alignment.shape} of {len(self.rows)} rows")
        for row, ids in enumerate(self.rows):
            wanted = self._trial.attended(self.inputs[row // self.width], ids)
            behind = max(0, alignment.shape[-1] - wanted.shape[-1])
            padded = np.pad(wanted, [*[(0, 0)] * (wanted.ndim - 1), (0, behind)])
            same = padded.shape == alignment.shape[1:]
            if not same or not np.allclose(alignment[row], padded, rtol=0, atol=tolerance):
                raise DifferenceError(f"alignment of row {row}: {alignment[row]}, not {wanted}")

    def go_on(self) -> Answer:
        """Another token for each row."""
        return self.read([[token] for token in self._trial.tokens(len(self.rows))])

    def check(self, logits: Logits | None = None, positions: int = 1) -> None:
        """Raise DifferenceError unless lengths, and logits, are those of rows alone.

        The logits are those after each of the last `positions` tokens of every row.
        """
        lengths, wanted = np.asarray(self.cache.length).tolist(), [len(row) for row in self.rows]
        if lengths != wanted:
            raise DifferenceError(f"length: {lengths}, should be {wanted}")
        if logits is None:
            return
        lines = [
            (row, ids[: len(ids) - later])
            for row, ids in enumerate(self.rows)
            for later in reversed(range(positions))
        ]
        if logits.ndim != 2 or len(logits) != len(lines) or logits.dtype != np.float32:
            raise DifferenceError(f"logits: {logits.dtype} {logits.shape} of {len(lines)} rows")
        for line, (row, ids) in zip(logits, lines, strict=True):
            input_ = self.inputs[row // self.width]
            what = f"input {input_} after {list(ids)}, as row {row} of {len(self.rows)}"
            self._trial.same(line, self._trial.alone(input_, ids), what)

    def refuses(self, tokens: int) -> None:
        """Raise DifferenceError unless so many more are refused, and nothing changes."""
        try:
            self._trial.backend.step(*pad([self._trial.tokens(tokens)]), self.cache)
        except CapacityError:
            self.check()
            return
        raise DifferenceError(f"{len(self.rows[0]) + tokens} tokens were taken")

    def reorder(self, rows: Sequence[int]) -> None:
        """Other rows of the same inputs."""
        self.cache.reorder(np.array(rows, dtype=np.int64))
        self.rows = [self.rows[row] for row in rows]
        self.check()

    def spread(self) -> None:
        """As many rows an input as the examples say, all alike."""
        self.reorder(
            [row for row in range(len(self.rows)) for _ in range(self._trial.examples.beams)]
        )

    def rewind(self, length: int) -> None:
        """So many tokens of each row are left."""
        self.cache.rewind(length)
        self.rows = [row[:length] for row in self.rows]
        self.check()

    def keep(self, inputs: Sequence[int]) -> None:
        """These inputs stay, in this order."""
        cast("RunningCache", self.cache).keep(np.array(inputs, dtype=np.int64))
        width = self.width
        self.rows = [row for i in inputs for row in self.rows[i * width : (i + 1) * width]]
        self.inputs = [self.inputs[i] for i in inputs]
        self.check()

    def join(self, other: Tracked) -> None:
        """The other's inputs come behind these."""
        cast("RunningCache", self.cache).join(other.cache)
        self.rows += other.rows
        self.inputs += other.inputs
        self.check()
