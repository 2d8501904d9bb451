"""One window of a recording after the other, as transformers' long-form generation has them.

As in OpenAI's `transcribe` (Radford et al. 2022, section 4.5) the next one begins where the last
pair of times was, and what was said before goes into its prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from seq2edge.runtime.sound.log_mel import FRAME_RATE, FRAMES, HOP, recording_log_mel
from seq2edge.runtime.sound.resampling import Samples
from seq2edge.runtime.speech.options import SpeechOptions
from seq2edge.runtime.speech.spans import Span
from seq2edge.runtime.speech.tokens import SpeechTokens
from seq2edge.runtime.speech.windows import Heard, Hints, Part, Window, parts_of, pieces_of

COLD = 0.5  # the temperature from which on a text is not worth to be gone on from


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
        pieces, after = pieces_of(window, heard, self._tokens, times=self._times)
        for piece in pieces:
            self.ids += piece.ids
            self._before += self._without_second_time(piece.ids)
        del self._before[: -self._tokens.longest_before or None]
        self._seek += after or window.frames
        self._skip()
        return parts_of(window, heard, pieces)

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
