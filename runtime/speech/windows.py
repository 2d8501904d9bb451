"""The windows of a recording: where each begins, what stands before it, what it has said.

Exact windows follow each other as those of transformers' long-form generation do (OpenAI's
`transcribe`, Radford et al. 2022, section 4.5): the next one begins where the last pair of times
was, and what was said before goes into its prompt. Batched ones are the parts of a recording in
which somebody speaks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from seq2edge.errors import OptionError
from seq2edge.runtime.sequences import GeneratedSequence
from seq2edge.runtime.sound.log_mel import (
    FRAME_RATE,
    FRAMES,
    HOP,
    SAMPLING_RATE,
    Features,
    log_mel,
    recording_log_mel,
)
from seq2edge.runtime.sound.resampling import Samples
from seq2edge.runtime.speech.options import SpeechOptions
from seq2edge.runtime.speech.timestamps import Piece, cut
from seq2edge.runtime.speech.tokens import SpeechTokens

SHORTEST = 1600  # samples that are read as they are
COLD = 0.5  # the temperature from which on a text is not worth to be gone on from

Span = tuple[int, int]  # the first, and the one behind the last


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


class ExactWindows:
    """One window after the other, each from where the one before it leaves off."""

    def __init__(
        self,
        samples: Samples,
        tokens: SpeechTokens,
        options: SpeechOptions,
        *,
        mels: int,
        hints: Hints,
        spans: Sequence[Span] | None = None,
    ) -> None:
        """`spans` are the samples in which somebody speaks; None: that is not known."""
        self._tokens, self._options, self._hints = tokens, options, hints
        self._features = recording_log_mel(samples, mels=mels)
        self._frames = max(1, len(samples) // HOP)
        self._spans = spans
        self._times = tokens.with_times(options)
        self._seek = 0
        self._waits = False  # for its last window
        self._conditions = options.condition_on_previous
        # Those of the whole recording, times included, behind the prompt's.
        self.ids: list[int] = []
        self._before = list(hints.prompt)
        self._skip()

    @property
    def done(self) -> bool:
        """See Windows."""
        return self._seek >= self._frames

    @property
    def seconds(self) -> float:
        """See Windows."""
        return min(self._seek, self._frames) / FRAME_RATE

    def next(self) -> Window | None:
        """See Windows."""
        if self._waits or self.done:
            return None
        self._waits = True
        frames = min(FRAMES, self._frames - self._seek)
        # The padding of a short recording is silence, that of a long one's end nothing at all.
        last = self._seek + frames if self._features.shape[1] > FRAMES else FRAMES
        part = self._features[:, self._seek : max(last, self._seek + frames)]
        features = np.zeros((len(part), FRAMES), np.float32)
        features[:, : part.shape[1]] = part
        return Window(
            features=features,
            frames=frames,
            first=self._seek,
            before=self._hints.before(
                self._before if self._conditions else self._hints.prompt, self._tokens
            ),
            prefix=self._hints.prefix if self._seek == 0 else (),
        )

    def take(self, window: Window, heard: Heard) -> list[Part]:
        """See Windows."""
        self._waits = False
        self._conditions = self._options.condition_on_previous and heard.temperature < COLD
        if heard.silent:
            self._seek += window.frames
            self._skip()
            return []
        pieces, after = _pieces(window, heard, self._tokens, times=self._times)
        for piece in pieces:
            self.ids += piece.ids
            self._before += self._without_second_time(piece.ids)
        del self._before[: -self._tokens.longest_before or None]
        self._seek += after or window.frames
        self._skip()
        return _parts(window, heard, pieces)

    def _without_second_time(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """A segment's ids for a prompt: of a pair of times at the end the first one."""
        first = self._tokens.first_timestamp
        pair = first is not None and len(ids) > 2 and ids[-2] >= first
        return ids[:-1] if pair else ids

    def _skip(self) -> None:
        """Go on to the first window in which somebody speaks."""
        while self._spans is not None and not self.done:
            begin, end = self._seek * HOP, (self._seek + FRAMES) * HOP
            if any(first < end and last > begin for first, last in self._spans):
                return
            self._seek += min(FRAMES, self._frames - self._seek)


class BatchedWindows:
    """The parts in which somebody speaks, in windows that are independent of each other."""

    def __init__(
        self,
        samples: Samples,
        tokens: SpeechTokens,
        options: SpeechOptions,
        *,
        mels: int,
        hints: Hints,
        spans: Sequence[Span],
    ) -> None:
        """Without `mels` of a model that reads samples."""
        self._samples, self._tokens, self._hints, self._mels = samples, tokens, hints, mels
        self._times = tokens.with_times(options)
        # Where no window has to be filled, each part has its own.
        groups = [spans] if mels else [[span] for span in spans]
        self._windows = [each for group in groups for each in packed(group, FRAMES * HOP)]
        self._next = self._taken = 0
        self._parts: dict[int, list[Part]] = {}
        self._places: dict[Window, int] = {}  # of the windows that are decoded now
        self._length = len(samples)

    @property
    def done(self) -> bool:
        """See Windows."""
        return self._taken == len(self._windows)

    @property
    def seconds(self) -> float:
        """See Windows."""
        samples = self._length if self.done else self._windows[self._taken][0][0]
        return samples / SAMPLING_RATE

    def next(self) -> Window | None:
        """See Windows."""
        if self._next == len(self._windows):
            return None
        spans = self._windows[self._next]
        clip = np.concatenate([self._samples[first:last] for first, last in spans])
        window = Window(
            features=log_mel(clip, mels=self._mels) if self._mels else _whole(clip),
            frames=max(1, len(clip) // HOP),
            first=spans[0][0] // HOP,
            spans=tuple(spans),
            before=self._hints.before(self._hints.prompt, self._tokens),
        )
        self._places[window] = self._next
        self._next += 1
        return window

    def take(self, window: Window, heard: Heard) -> list[Part]:
        """See Windows."""
        place = self._places.pop(window)
        pieces: list[Piece] = []
        if not heard.silent:
            pieces, _ = _pieces(window, heard, self._tokens, times=self._times)
        spans = self._windows[place]
        self._parts[place] = [
            dataclasses.replace(
                part,
                start=in_recording(spans, part.start - window.first),
                end=in_recording(spans, part.end - window.first, end=True),
            )
            for part in _parts(window, heard, pieces)
        ]
        ready: list[Part] = []
        while self._taken in self._parts:
            ready += self._parts.pop(self._taken)
            self._taken += 1
        return ready


def _whole(clip: Samples) -> Samples:
    """Samples for a model that reads these as they are, at least a tenth of a second."""
    return np.pad(clip, (0, max(0, SHORTEST - len(clip))))


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


def _pieces(
    window: Window, heard: Heard, tokens: SpeechTokens, *, times: bool
) -> tuple[list[Piece], int]:
    """What a window's ids are cut into, and after how many frames the next one begins."""
    if not times or tokens.first_timestamp is None:
        return [Piece(heard.ids, 0, window.frames // 2)], window.frames
    return cut(heard.ids, tokens.first_timestamp, window.frames)


def _parts(window: Window, heard: Heard, pieces: Sequence[Piece]) -> list[Part]:
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


def packed(spans: Sequence[Span], most: int) -> list[list[Span]]:
    """Spans in groups of no more samples than `most` together; longer ones are cut."""
    groups: list[list[Span]] = []
    room = 0
    for begin, end in spans:
        for first in range(begin, end, most):
            last = min(first + most, end)
            if last - first > room:
                groups.append([])
                room = most
            groups[-1].append((first, last))
            room -= last - first
    return groups


def in_recording(spans: Sequence[Span], frame: int, *, end: bool = False) -> int:
    """The frame of the recording that is this frame of the spans' samples, put together.

    Where one span ends and another begins, the end of something is in the first of them.
    """
    sample = frame * HOP
    for first, last in spans:
        length = last - first
        if sample < length or (end and sample <= length):
            return (first + sample) // HOP
        sample -= length
    return spans[-1][1] // HOP
