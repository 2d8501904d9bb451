"""Caches in a device's memory: how they lie there, sets of them that come and go, rows that move.

All caches of one size lie behind each other, so that one copy moves a row of all of them.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.backends.device import ALIGNMENT, Block, Device

IDLE_SETS = 4  # sets of caches that are kept for the next that ask for such

Shape: TypeAlias = tuple[int, int, int, int]  # rows, heads, capacity, head_dim
# Of each cache by name: (heads, head_dim) of a token, and the type of its numbers.
Layout: TypeAlias = Mapping[str, tuple[tuple[int, int], type[Any]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheBlock:
    """Caches of one size: their names, where they begin in a set, and a token's bytes in a line."""

    names: tuple[str, ...]
    start: int
    line: int
    block: Block

    def places(self, base: int) -> dict[str, int]:
        """Where each lies in a set at this address."""
        first, step = base + self.start, self.block.tensor_size
        return {name: first + index * step for index, name in enumerate(self.names)}


def lay_out(caches: Iterable[tuple[str, Shape, int]]) -> list[CacheBlock]:
    """Blocks for caches by name, each with its shape and the bytes of a number."""
    alike: dict[tuple[Shape, int], list[str]] = {}
    for name, shape, size in caches:
        alike.setdefault((shape, size), []).append(name)
    blocks: list[CacheBlock] = []
    for ((rows, heads, capacity, head_dim), size), names in alike.items():
        line = head_dim * size
        pitch, lines = capacity * line, rows * heads
        while pitch * lines % ALIGNMENT:
            lines += 1
        last = blocks[-1] if blocks else None
        blocks.append(
            CacheBlock(
                names=tuple(names),
                start=last.start + last.block.size if last is not None else 0,
                line=line,
                block=Block(pitch=pitch, lines=lines, row_lines=heads, tensors=len(names)),
            )
        )
    return blocks


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachePlace:
    """One tensor (rows, heads, capacity, head_dim) of a set."""

    name: str
    address: int
    shape: Shape
    kind: type[Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheSet:
    """Keys and values of so many rows and tokens."""

    rows: int
    capacity: int
    address: int
    blocks: tuple[CacheBlock, ...]

    @property
    def size(self) -> int:
        """Its bytes."""
        return sum(each.block.size for each in self.blocks)

    def holds(self, rows: int, capacity: int) -> bool:
        """Whether it is for so many rows and tokens."""
        return (self.rows, self.capacity) == (rows, capacity)


class CacheSets:
    """Sets of caches of one layout, of which some that nobody uses are kept."""

    def __init__(self, device: Device, layout: Layout) -> None:
        self.device, self._layout = device, layout
        self._idle: list[CacheSet] = []  # the last that came back at the end

    def take(self, rows: int, capacity: int) -> CacheSet:
        """One without any number in it that is none: 0 times that would be no 0."""
        for place, each in enumerate(self._idle):
            if each.holds(rows, capacity):
                del self._idle[place]
                self.device.clear(each.address, each.size)
                return each
        while len(self._idle) > IDLE_SETS:
            self.device.free(self._idle.pop(0).address)
        blocks = lay_out(
            (name, (rows, heads, capacity, head_dim), np.dtype(kind).itemsize)
            for name, ((heads, head_dim), kind) in self._layout.items()
        )
        size = sum(each.block.size for each in blocks)
        address = self.device.allocate(size, zero=True)
        return CacheSet(rows=rows, capacity=capacity, address=address, blocks=tuple(blocks))

    def give_back(self, sets: list[CacheSet]) -> None:
        """Others may take them at once: what was asked of them before is done before."""
        self._idle.extend(sets)
        sets.clear()

    def places(self, caches: CacheSet) -> Iterator[CachePlace]:
        """Every tensor of a set."""
        for each in caches.blocks:
            for name, address in each.places(caches.address).items():
                (heads, head_dim), kind = self._layout[name]
                shape = (caches.rows, heads, caches.capacity, head_dim)
                yield CachePlace(name=name, address=address, shape=shape, kind=kind)


class HeldRows:
    """What some rows hold on a device, in a set of caches; rows that move go into another one."""

    def __init__(self, sets: CacheSets, rows: int, capacity: int) -> None:
        self._sets = sets
        self._held = [sets.take(rows, capacity)]  # the current one first
        weakref.finalize(self, sets.give_back, self._held)

    @property
    def current(self) -> CacheSet:
        """Where they are now."""
        return self._held[0]

    def move(self, rows: NDArray[np.int64], capacity: int, used: int) -> None:
        """Row i takes over `used` tokens of row `rows[i]`; there is room for `capacity` then."""
        before, alike = self.current, self.current.holds(len(rows), capacity)
        if alike and len(self._held) > 1:
            after = self._held.pop()
        else:
            after = self._sets.take(len(rows), capacity)
        self._copy(after, before, rows, used)
        if not alike:
            self._sets.give_back(self._held)
        self._held.insert(0, after)

    def append(self, other: HeldRows, capacity: int, used: int, others_used: int) -> None:
        """The rows of another come behind these, with so many tokens of each."""
        mine, theirs = self.current, other.current
        after = self._sets.take(mine.rows + theirs.rows, capacity)
        self._copy(after, mine, np.arange(mine.rows), used)
        self._copy(after, theirs, np.arange(theirs.rows), others_used, first=mine.rows)
        self._sets.give_back(self._held)
        self._held.append(after)

    def _copy(
        self,
        after: CacheSet,
        before: CacheSet,
        rows: NDArray[np.int64],
        used: int,
        *,
        first: int = 0,
    ) -> None:
        """Rows from `first` on take over `used` tokens of these of another set."""
        for old, new in zip(before.blocks, after.blocks, strict=True):
            target = after.address + new.start + first * new.block.row_size
            source = before.address + old.start
            width = used * new.line
            self._sets.device.copy_rows(
                target, source, new.block, rows, width, source_block=old.block
            )

    def fill(self, addresses: Mapping[str, int], tokens: int) -> None:
        """Take over tensors (rows, heads, tokens, head_dim) that lie elsewhere on the device."""
        for place in self._sets.places(self.current):
            rows, heads, capacity, head_dim = place.shape
            line, lines = head_dim * np.dtype(place.kind).itemsize, rows * heads
            target, source = (
                Block(pitch=size * line, lines=lines, row_lines=lines, tensors=1)
                for size in (capacity, tokens)
            )
            self._sets.device.copy_rows(
                place.address,
                addresses[place.name],
                target,
                np.zeros(1, dtype=np.int64),
                tokens * line,
                source_block=source,
            )
