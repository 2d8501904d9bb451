"""What is asked for: one input, and how it is decoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.backend import Cache, Logits, Memory
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.search import HoldsStop, Processor
from seq2edge.runtime.sequences import Source, common_length, is_signal
from seq2edge.runtime.speculation import Drafter

if TYPE_CHECKING:
    from seq2edge.runtime.group import Group
    from seq2edge.runtime.tool_format import CallReader


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
    the encoder as its `memory`. `calls` reads what an answer asks for of tools.
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
    calls: CallReader | None = None

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


def rows_of(options: DecodeOptions) -> int:
    """How many sequences are decoded at a time for a request of these options."""
    drawn = options.do_sample and options.num_beams == 1
    return options.num_return_sequences if drawn else options.num_beams
