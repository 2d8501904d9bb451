"""The parts of a recording in which somebody speaks, in windows of which several are decoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from seq2edge.runtime.sound.log_mel import HOP, SAMPLING_RATE, log_mel
from seq2edge.runtime.sound.resampling import Samples
from seq2edge.runtime.speech.options import SpeechOptions
from seq2edge.runtime.speech.spans import Span, behind, filled, in_recording
from seq2edge.runtime.speech.timestamps import Piece
from seq2edge.runtime.speech.tokens import SpeechTokens
from seq2edge.runtime.speech.windows import Heard, Hints, Part, Window, parts_of, pieces_of

SHORTEST = 1600  # samples that are read as they are
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
                for part in parts_of(window, heard, pieces)
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
        pieces, after = pieces_of(window, heard, self._tokens, times=self._times)
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
