"""Speech as it is heard: words settle when two readings of the sound in a row agree on them.

That is LocalAgreement-2 of Macháček, Dabre and Bojar, "Turning Whisper into Real-Time Transcription
System", 2023. The sound since the last segment that is settled is read again and again, with what
was said before it as the prompt. A pause settles everything, and silence is not read at all.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from seq2edge.errors import OptionError
from seq2edge.runtime.model import Model
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.sound.activity import speech_spans
from seq2edge.runtime.sound.resampling import SAMPLING_RATE, Samples
from seq2edge.runtime.speech.options import SpeechOptions
from seq2edge.runtime.speech.transcriber import Transcriber
from seq2edge.runtime.speech.transcript import Segment, Word, share_time
from seq2edge.runtime.speech.words import has_words

# The segments of samples, with times from their beginning; the text is what was said before them.
Reader: TypeAlias = Callable[[Samples, str], Sequence[Segment]]

_PROMPT = 200  # characters of what was said before
_KEPT = SAMPLING_RATE // 2  # samples of silence that are kept, where a word may begin
_TOKENS_PER_SECOND = 10  # more than anybody says: what is longer repeats itself
_MOST = 25.0  # seconds of sound that are read at once, below a window's 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiveOptions:
    """How often sound is read, and what a pause is. Raises OptionError out of range."""

    # Seconds of new sound until the model reads again.
    step: float = 0.6
    # Seconds without speech that settle all words before them.
    pause: float = 0.6

    def __post_init__(self) -> None:
        for name in ("step", "pause"):
            if not 0.1 <= getattr(self, name) <= 10:
                raise OptionError(f"{name}: {getattr(self, name)} s, 0.1 to 10 are possible")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Update:
    """What a reading changed."""

    # Words that will not change any more; seconds from the beginning of all sound.
    settled: tuple[Word, ...]
    # What was heard behind them, and may still change.
    partial: str
    # Whether a pause follows.
    pause: bool


class Listener:
    """Hears samples as they come; one for each source of sound, and for one thread."""

    def __init__(self, read: Reader, options: LiveOptions | None = None) -> None:
        self._read, self._options = read, options or LiveOptions()
        self._sound = np.empty(0, np.float32)
        self._start = 0  # the sample of all sound that this begins with
        self._new = 0  # samples since the last reading
        self._said = ""  # before the sound
        self._inside: list[Word] = []  # settled, and in the sound still
        self._before: list[Word] = []  # what the last reading heard behind these

    @classmethod
    def of(
        cls,
        model: Model,
        speech: SpeechOptions | None = None,
        decode: DecodeOptions | None = None,
        options: LiveOptions | None = None,
    ) -> Listener:
        """One that reads with a speech model. Raises as `Transcriber` does.

        Words have times by their alignment where the bundle gives it, else by their length.
        """
        aligned = has_words(model)
        chosen = (speech or SpeechOptions()).replace(temperatures=(0.0,), words=aligned)
        plain = Transcriber(model, chosen, decode)
        hints = plain.tokens.previous is not None

        def read(samples: Samples, said: str) -> Sequence[Segment]:
            most = 16 + int(_TOKENS_PER_SECOND * len(samples) / SAMPLING_RATE)
            search = plain.decode.replace(max_new_tokens=most)
            how = chosen.replace(initial_prompt=said) if hints and said.strip() else chosen
            return Transcriber(model, how, search).transcribe(samples).segments

        return cls(read, options)

    def hear(self, samples: Samples) -> Update | None:
        """Take in 16 kHz samples that follow those before; None where it is not time to read."""
        self._sound = np.concatenate([self._sound, samples])
        self._new += len(samples)
        if self._new < self._options.step * SAMPLING_RATE:
            return None
        return self._update(last=False)

    def finish(self) -> Update:
        """Nothing follows: all words settle."""
        return self._update(last=True)

    def _update(self, *, last: bool) -> Update:
        self._new = 0
        spans = speech_spans(self._sound) if len(self._sound) else []
        if not spans:
            # What was heard in a beginning that has shown to be no speech was nothing.
            paused = bool(self._inside or self._before)
            self._forget(max(0, len(self._sound) - _KEPT), [])
            self._before = []
            return Update(settled=(), partial="", pause=paused)
        end = spans[-1][1]
        quiet = (len(self._sound) - end) / SAMPLING_RATE
        segments = self._read(self._sound[:end], self._said)
        words, ends = self._words(segments)
        first = place_behind(self._inside, words)
        paused = last or quiet >= self._options.pause / 2  # a span has padding behind it already
        if paused:
            settled, self._before = words[first:], []
            self._inside += settled
            self._forget(end, [])
            return Update(settled=tuple(settled), partial="", pause=True)
        count = agreeing(self._before, words[first:])
        settled, self._before = words[first : first + count], words[first + count :]
        self._let_go(words, ends, first + count)
        partial = "".join(word.text for word in self._before)
        return Update(settled=tuple(settled), partial=partial, pause=False)

    def _words(self, segments: Sequence[Segment]) -> tuple[list[Word], dict[int, int]]:
        """All words, seconds of all sound; and where segments end: how many words, the sample.

        The last segment has no end yet.
        """
        words: list[Word] = []
        ends: dict[int, int] = {}
        offset = self._start / SAMPLING_RATE
        for segment in segments:
            for word in segment.words or spread(segment):
                start, end = word.start + offset, word.end + offset
                words.append(dataclasses.replace(word, start=start, end=end))
            if segment is not segments[-1]:
                ends[len(words)] = round(segment.end * SAMPLING_RATE)
        return words, ends

    def _let_go(self, words: list[Word], ends: dict[int, int], settled: int) -> None:
        """Forget the sound of segments that are settled, or of words where it is too long."""
        self._inside = words[:settled]
        whole = max((count for count in ends if count <= settled), default=0)
        if whole:
            self._forget(ends[whole], words[whole:settled])
        elif len(self._sound) > _MOST * SAMPLING_RATE:
            # Nothing of it ends or nothing agrees: what is heard now has to do.
            place = words[settled - 1].end if settled else self._start / SAMPLING_RATE + _MOST / 2
            self._before = [] if not settled else self._before
            self._forget(round(place * SAMPLING_RATE) - self._start, [])

    def _forget(self, samples: int, inside: list[Word]) -> None:
        """Let go so many samples, and the settled words that were in them."""
        gone = len(self._inside) - len(inside)
        said = self._said + "".join(word.text for word in self._inside[:gone])
        self._said = said[-_PROMPT:]
        self._inside = inside
        samples = min(max(0, samples), len(self._sound))
        self._sound = self._sound[samples:]
        self._start += samples


def spread(segment: Segment) -> list[Word]:
    """A segment's words, with times by their share of its characters."""
    return share_time(re.findall(r"\s*\S+", segment.text), segment, 1.0)


def agreeing(before: Sequence[Word], now: Sequence[Word]) -> int:
    """How many words both begin with, whatever their case and marks."""
    count = 0
    for one, other in zip(before, now, strict=False):
        if _plain(one) != _plain(other):
            break
        count += 1
    return count


def place_behind(settled: Sequence[Word], words: Sequence[Word]) -> int:
    """Behind how many of the words it goes on that were settled, as they were heard this time.

    The beginning with the fewest edits to what was settled; of several one that ends as it does,
    then the one of its length.
    """
    if not settled:
        return 0
    costs = list(range(len(words) + 1))
    for row, word in enumerate(settled, 1):
        last, costs[0] = costs[0], row
        for column, other in enumerate(words, 1):
            changed = last + (_plain(word) != _plain(other))
            last = costs[column]
            costs[column] = min(changed, last + 1, costs[column - 1] + 1)
    last_word = _plain(settled[-1])

    def worth(place: int) -> tuple[int, bool, int]:
        other = place == 0 or _plain(words[place - 1]) != last_word
        return costs[place], other, abs(place - len(settled))

    return min(range(len(costs)), key=worth)


def _plain(word: Word) -> str:
    return re.sub(r"\W", "", word.text).casefold() or word.text.strip()
