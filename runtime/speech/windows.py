"""A window of a recording: where it begins, what stands before it, what it has said.

Which windows a recording has is said by `exact_windows` and `batched_windows`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from seq2edge.errors import OptionError
from seq2edge.runtime.sequences import GeneratedSequence
from seq2edge.runtime.sound.log_mel import FRAME_RATE, Features
from seq2edge.runtime.speech.options import SpeechOptions
from seq2edge.runtime.speech.spans import Span, in_recording
from seq2edge.runtime.speech.timestamps import Piece, cut
from seq2edge.runtime.speech.tokens import SpeechTokens


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """A part of a recording that is decoded at once.

    `features` (mels, 3000), or samples as they are, of which `frames` hold sound; `before` is what
    was said before it, with the token that says so; `prefix` what its text begins with. `first` is
    the frame of the recording in which it begins; where it is of several parts, `spans` are their
    samples.
    """

    features: Features
    frames: int
    first: int
    before: tuple[int, ...] = ()
    prefix: tuple[int, ...] = ()
    spans: tuple[Span, ...] = ()

    def clock(self, seconds: float, ends: bool) -> float:  # noqa: FBT001 - see Clock
        """When in the recording it is so many seconds of the window; whether something ends."""
        if not self.spans:
            return self.first / FRAME_RATE + seconds
        return in_recording(self.spans, round(FRAME_RATE * seconds), end=ends) / FRAME_RATE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heard:
    """What a window says, its prefix included, and how sure that is; see `Segment`."""

    ids: tuple[int, ...]
    temperature: float
    average_logprob: float
    compression_ratio: float
    no_speech_probability: float
    silent: bool  # doubtful, and likely that nobody speaks
    language: str
    answer: GeneratedSequence | None = None  # what was decoded, without the prefix


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A segment without its text: ids, frames of the recording, and the window that has it."""

    ids: tuple[int, ...]
    start: int
    end: int
    window: Window
    heard: Heard
    first: int  # its place among the ids of the window


class Windows(Protocol):
    """The windows of one recording."""

    def next(self) -> Window | None:
        """One that can be decoded now; None where none can before others are taken."""

    def take(self, window: Window, heard: Heard) -> list[Part]:
        """What is known to be said now, in the order of the recording."""

    @property
    def done(self) -> bool:
        """Whether all were taken."""

    @property
    def seconds(self) -> float:
        """How much of the recording is done."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hints:
    """The ids of what the options say of a recording beforehand."""

    prompt: tuple[int, ...] = ()
    hotwords: tuple[int, ...] = ()
    prefix: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, options: SpeechOptions, tokens: SpeechTokens, encode: Callable[[str], Sequence[int]]
    ) -> Hints:
        """Those of the options' texts, of prompts the last tokens that fit."""

        def ids(text: str | None, most: int) -> tuple[int, ...]:
            """As they stand in a text: with a space before them."""
            return tuple(encode(f" {text.strip()}"))[-most:] if text and most else ()

        for name in ("initial_prompt", "hotwords"):
            if getattr(options, name) is not None and tokens.previous is None:
                raise OptionError(f"{name}: this model has no token for what was said before")
        room = tokens.longest_before
        hotwords = ids(options.hotwords, room // 2)
        first = tokens.first_timestamp
        prefix = ids(options.prefix, room)
        if prefix and first is not None and tokens.with_times(options):
            prefix = (first, *prefix)
        return cls(
            prompt=ids(options.initial_prompt, room - len(hotwords)),
            hotwords=hotwords,
            prefix=prefix,
        )

    def before(self, said: Sequence[int], tokens: SpeechTokens) -> tuple[int, ...]:
        """What stands before a window: the hot words, and as much of what was said as fits."""
        room = tokens.longest_before - len(self.hotwords)
        ids = (*self.hotwords, *(said[-room:] if room > 0 else ()))
        return (tokens.previous, *ids) if ids and tokens.previous is not None else ()


def pieces_of(
    window: Window, heard: Heard, tokens: SpeechTokens, *, times: bool
) -> tuple[list[Piece], int]:
    """What a window's ids are cut into, and after how many frames the next one begins."""
    if not times or tokens.first_timestamp is None:
        return [Piece(heard.ids, 0, window.frames // 2)], window.frames
    return cut(heard.ids, tokens.first_timestamp, window.frames)


def parts_of(window: Window, heard: Heard, pieces: Sequence[Piece]) -> list[Part]:
    """The same with frames of the recording."""
    parts, first = [], 0
    for piece in pieces:
        parts.append(
            Part(
                ids=piece.ids,
                start=window.first + 2 * piece.start,
                end=window.first + 2 * piece.end,
                window=window,
                heard=heard,
                first=first,
            )
        )
        first += len(piece.ids)
    return parts
