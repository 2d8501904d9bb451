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
LEAST = 2 * SAMPLING_RATE  # samples at which a window is filled up with part of a span
# Samples of spans in a window. In one that is filled up models tend to end before the last words.
MOST = 26 * SAMPLING_RATE
BLOCK = 4  # windows that are made together
REST = 100  # frames at the end of a window that are read again where they were not heard
BACK = 20  # frames before them that are read with them: a time may be a little late
# A model that stops early may close its last segment at the window's end. One of more frames than
# these a token and a pause is such a one: of 256 segments of three recordings none had over 0.7 s
# more than half a second a token, but that one 22 s.
SLOWEST, PAUSE = 100, 500
USUAL = 50  # frames a token after which what such a segment leaves is read again
APART = 30 * SAMPLING_RATE  # samples between spans that share no window: a sentence has not both
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


@dataclasses.dataclass(eq=False)
class _Block:
    """Windows that are made together: those to come, how many are decoded, what they left."""

    waiting: list[list[Span]]
    running: int = 0
    left: list[Span] = dataclasses.field(default_factory=list)

    @property
    def done(self) -> bool:
        return not self.waiting and not self.running


class BatchedWindows:
    """The parts in which somebody speaks, in windows of which several are decoded at a time.

    A model may end before a window does: what is behind its last time goes into a later window. So
    that this depends on the recording alone, windows are made in blocks, each of what the block
    before the last one left, and of what comes next.
    """

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
        """Without `mels` of a model that reads samples, whose windows are one span each."""
        self._samples, self._tokens, self._hints, self._mels = samples, tokens, hints, mels
        self._times = tokens.with_times(options)
        self._spans = list(spans)  # that no window has yet
        self._blocks = [_Block([]), _Block([])]  # the last two
        self._running: dict[Window, _Block] = {}
        self._parts: list[Part] = []  # before which something may still be said
        self._again: list[Span] = []  # what segments that lasted too long have left

    @property
    def done(self) -> bool:
        """See Windows."""
        left = any(block.left or block.waiting for block in self._blocks)
        return not (self._spans or self._running or left)

    @property
    def seconds(self) -> float:
        """See Windows."""
        first = self._first_open()
        return (len(self._samples) if first is None else first) / SAMPLING_RATE

    def _first_open(self) -> int | None:
        """The first sample whose words are not known yet; None: all are."""
        spans = [*self._spans, *(span for window in self._running for span in window.spans)]
        for block in self._blocks:
            spans += [*block.left, *(span for window in block.waiting for span in window)]
        return min((first for first, _ in spans), default=None)

    def next(self) -> Window | None:
        """See Windows."""
        while not self._blocks[1].waiting:
            before, last = self._blocks
            if not before.done or not (before.left or last.left or self._spans):
                return None
            self._blocks = [last, self._block(before.left)]
        block = self._blocks[1]
        window = self._window(block.waiting.pop(0))
        block.running += 1
        self._running[window] = block
        return window

    def _block(self, left: list[Span]) -> _Block:
        self._spans = left + self._spans
        windows: list[list[Span]] = []
        while self._spans and len(windows) < BLOCK:
            most = len(self._spans) if self._mels else 1
            spans, rest = filled(self._spans[:most], MOST, self._samples)
            self._spans = rest + self._spans[most:]
            windows.append(spans)
        return _Block(windows)

    def _window(self, spans: Sequence[Span]) -> Window:
        clip = np.concatenate([self._samples[first:last] for first, last in spans])
        return Window(
            features=log_mel(clip, mels=self._mels) if self._mels else _whole(clip),
            frames=max(1, len(clip) // HOP),
            first=spans[0][0] // HOP,
            spans=tuple(spans),
            before=self._hints.before(self._hints.prompt, self._tokens),
        )

    def take(self, window: Window, heard: Heard) -> list[Part]:
        """See Windows."""
        block = self._running.pop(window)
        block.running -= 1
        if not heard.silent:
            pieces, after, early = self._heard_to(window, heard)
            left = behind(window.spans, (after - BACK) * HOP)
            if BACK < after <= window.frames - REST:
                block.left = sorted([*block.left, *left])
            if early:
                self._again += left
            self._parts += [
                dataclasses.replace(
                    part,
                    start=in_recording(window.spans, part.start - window.first),
                    end=in_recording(window.spans, part.end - window.first, end=True),
                )
                for part in _parts(window, heard, pieces)
            ]
        self._parts.sort(key=lambda part: part.start)
        first = self._first_open()
        known = [part for part in self._parts if first is None or part.start * HOP < first]
        self._parts = self._parts[len(known) :]
        return known

    def _heard_to(self, window: Window, heard: Heard) -> tuple[list[Piece], int, bool]:
        """What a window says, up to which of its frames, and whether it stopped early there.

        What was read again for a segment that lasts too long is believed: music, say.
        """
        pieces, after = _pieces(window, heard, self._tokens, times=self._times)
        first = self._tokens.first_timestamp
        if not self._times or first is None or not pieces:
            return pieces, after, False
        last, begin = pieces[-1], 2 * pieces[-1].start
        words = sum(token < first for token in last.ids)
        sample = in_recording(window.spans, begin) * HOP
        known = any(one <= sample < other for one, other in self._again)
        if known or 2 * last.end - begin <= SLOWEST * words + PAUSE:
            return pieces, after, False
        after = begin + USUAL * words
        return [*pieces[:-1], dataclasses.replace(last, end=after // 2)], after, True


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


def filled(spans: Sequence[Span], most: int, samples: Samples) -> tuple[list[Span], list[Span]]:
    """The first of these spans of samples, no more than `most` together, and the others.

    They end where the next one is far away. One that does not fit is cut where it is quietest in
    the second half of what fits; where less than `LEAST` does, it is left.
    """
    group, others, room = list[Span](), list(spans), most
    while others and room >= (LEAST if group else 1):
        if group and others[0][0] - group[-1][1] > APART:
            break
        first, last = others.pop(0)
        if last - first > room:
            middle = quietest(samples, first + room // 2, first + room)
            others.insert(0, (middle, last))
            return [*group, (first, middle)], others
        group.append((first, last))
        room -= last - first
    return group, others


def behind(spans: Sequence[Span], length: int) -> list[Span]:
    """What is left of spans without their first samples."""
    left = []
    for first, last in spans:
        begin = first + length
        if begin < last:
            left.append((max(first, begin), last))
        length = max(0, length - (last - first))
    return left


def quietest(samples: Samples, first: int, last: int) -> int:
    """The middle of the 0.3 s between these samples that have the least energy."""
    width = 3 * SAMPLING_RATE // 10
    if last - first <= width:
        return last
    sums = np.cumsum(np.square(samples[first:last], dtype=np.float64))
    return first + width // 2 + int(np.argmin(sums[width:] - sums[:-width]))


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
