"""How caches lie in a device's memory: all of one size behind each other.

One copy then moves a row of all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from seq2edge.runtime.backends.device import ALIGNMENT, Block

Shape = tuple[int, int, int, int]  # rows, heads, capacity, head_dim


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
