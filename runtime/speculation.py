"""Guessing the next tokens, which one call of the graph then verifies: the tokens stay the same.

What is chosen after each guess is what would have been chosen without it, greedily or drawn. So a
guess costs time where it is wrong and saves a step where it is right, and changes nothing else: in
float32 and int8-static. The kernels of 8-bit and 4-bit weights round one row otherwise than several
(as in a batch), so there a near tie may be decided otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from seq2edge.errors import OptionError
from seq2edge.runtime.backend import Answer, Cache, Candidates, Memory
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.sequences import Source, pad, pad_sources

if TYPE_CHECKING:
    from seq2edge.runtime.model import Model

Ids: TypeAlias = NDArray[np.int64]

LONGEST_MATCH = 3  # tokens that are looked up, and so many less where these stand nowhere


class Drafter(Protocol):
    """Guesses what follows the tokens of one request."""

    def guess(self, ids: Ids, room: int) -> list[int]:
        """At most `room` tokens after these (length,): the prompt and all that was generated."""

    def verified(self, guessed: int, right: int) -> None:
        """So many of its last guesses were right, from the first one on."""


class DraftLength:
    """How many tokens are guessed at a time: more after all were right, fewer after a wrong one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.now = most

    def verified(self, guessed: int, right: int) -> None:
        """So many of the last guesses were right."""
        self.now = min(self._most, 2 * self.now) if right == guessed else max(1, right + 1)


class PromptLookup:
    """Guesses that what stood before is copied: from the prompt, or a source of the same ids."""

    def __init__(self, source: Sequence[int], most: int) -> None:
        self._source = np.array(source, dtype=np.int64)
        self._place = 0  # in all that is copied from, where the last guess ended
        self._length = DraftLength(most)

    def guess(self, ids: Ids, room: int) -> list[int]:
        """See Drafter."""
        text = np.concatenate((self._source, ids))
        first = self._match(text, len(ids))
        if first is None:
            return []
        guesses: list[int] = text[first : first + min(room, self._length.now)].tolist()
        self._place = first
        return guesses

    def _match(self, text: Ids, known: int) -> int | None:
        """Where what follows the last tokens stood before: the longest match, then the nearest."""
        for size in range(min(LONGEST_MATCH, known, len(text) - 1), 0, -1):
            windows = sliding_window_view(text[:-1], size)  # what ends the text is no match
            places = np.flatnonzero((windows == text[-size:]).all(axis=1)) + size
            if len(places):
                after = places[places >= self._place]
                return int(after[0] if len(after) else places[-1])
        return None

    def verified(self, guessed: int, right: int) -> None:
        """See Drafter."""
        self._place += right
        self._length.verified(guessed, right)


class DraftModel:
    """Guesses what a smaller model of the same vocabulary finds likeliest, given the same source.

    Takes no memory before its first guess.
    """

    def __init__(self, draft: Model, source: Source, most: int) -> None:
        assert draft.dims.decoder is not None
        self._draft, self._source = draft, source
        self._positions = draft.dims.decoder.max_positions or None
        self._cache: Cache | None = None
        self._ids: Ids = np.empty(0, dtype=np.int64)  # that its cache holds
        self._length = DraftLength(most)

    def guess(self, ids: Ids, room: int) -> list[int]:
        """See Drafter."""
        if self._positions is not None:
            room = min(room, self._positions - len(ids) + 1)
        if room < 1:
            return []
        backend = self._draft.backend
        if self._cache is None:
            self._cache = backend.start(_memory(self._draft, self._source), 1, None)
        most = min(len(self._ids), len(ids) - 1)
        differ = np.flatnonzero(self._ids[:most] != ids[:most])
        same = int(differ[0]) if len(differ) else most
        self._cache.rewind(same)
        guesses: list[int] = []
        feed = ids[same:].tolist()
        for _ in range(min(room, self._length.now)):
            answer = backend.step(*pad([feed]), self._cache)
            feed = [_likeliest(answer)]
            guesses += feed
        self._ids = np.concatenate((ids, np.array(guesses[:-1], dtype=np.int64)))
        return guesses

    def verified(self, guessed: int, right: int) -> None:
        """See Drafter."""
        self._length.verified(guessed, right)


def _memory(draft: Model, source: Source) -> Memory | None:
    """The draft's own encoder memory of a source."""
    if draft.dims.kind == "decoder":
        return None
    return draft.backend.encode(*pad_sources([source], [draft.dims.source_positions]))


def _likeliest(answer: Answer) -> int:
    if isinstance(answer, Candidates):
        return int(answer.ids[0, answer.values[0].argmax()])
    return int(answer[0].argmax())


def make_drafter(
    model: Model, draft: Model | None, options: DecodeOptions, source: Source
) -> Drafter | None:
    """Who guesses for a request: the draft, or what looks the prompt up, or nobody.

    Raises OptionError where tokens cannot be guessed.
    """
    most = options.prompt_lookup_num_tokens
    name = "prompt_lookup_num_tokens" if most else "draft"
    if not most and draft is None:
        return None
    if most and draft is not None:
        raise OptionError(f"{name}: {most} for a model with a draft; use one of them")
    # Looking the prompt up is refused with several by the options themselves.
    if draft is not None and max(options.num_beams, options.num_return_sequences) > 1:
        raise OptionError(
            f"draft: num_beams is {options.num_beams}, num_return_sequences "
            f"{options.num_return_sequences}; tokens are guessed for one sequence alone"
        )
    if not model.backend.verifies:
        raise OptionError(
            f"{name}: on {model.backend.name} these graphs answer the last token of a step alone; "
            "guesses are verified on the cpu, by the onnxruntime graphs of a bundle exported now"
        )
    if draft is not None:
        return DraftModel(draft, source, options.num_assistant_tokens)
    dims = model.dims
    shared = dims.kind != "decoder" and not (dims.reads_signal or dims.source_vocab)
    return PromptLookup([int(token) for token in source] if shared else [], most)


def check_draft(model: Model, draft: Model) -> None:
    """Raise OptionError unless `draft` can guess what `model` generates: the same ids."""
    ours, theirs = model.bundle.manifest, draft.bundle.manifest
    name = f"draft: {draft.bundle.path}"
    if theirs.task != ours.task or theirs.kind != ours.kind:
        raise OptionError(
            f"{name} is of kind {theirs.kind}, made to {theirs.task}; it needs those of "
            f"{model.bundle.path}: {ours.kind}, {ours.task}"
        )
    reads = [
        f"{dims.source_name} {dims.source_shape or ''}".strip() for dims in (model.dims, draft.dims)
    ]
    if reads[0] != reads[1]:
        raise OptionError(
            f"{name} reads {reads[1]}; it needs what {model.bundle.path} reads, {reads[0]}"
        )
    sizes = [(dims.vocab, dims.source_vocab) for dims in (model.dims, draft.dims)]
    if sizes[0] != sizes[1]:
        raise OptionError(
            f"{name} has a vocabulary of {draft.dims.vocab}; it needs that of {model.bundle.path}, "
            f"which has {model.dims.vocab}"
        )
    if not _same_tokens(model, draft):
        raise OptionError(f"{name} has another tokenizer; it needs that of {model.bundle.path}")


def _same_tokens(model: Model, draft: Model) -> bool:
    records = [each.bundle.manifest.tokenizer for each in (model, draft)]
    if records[0] is None or records[1] is None:
        return records[0] is records[1]
    return model.tokenizer.ids_of_tokens() == draft.tokenizer.ids_of_tokens()
