"""What a recording says: a transcript, its segments, their words; times in seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

# Ways in which a transcript is written, see `writers.py`.
FORMATS: Final = ("text", "json", "verbose_json", "srt", "vtt", "tsv")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Word:
    """A word of a segment, with the space before it and the marks that stand at it."""

    # As it stands in the segment's text: those of all words, joined, are that text.
    text: str
    # Seconds from the beginning of the recording.
    start: float
    end: float
    # How likely the model found its tokens, 0 to 1: their mean.
    probability: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
    """What is said from one time to another."""

    # As it was generated, with the space before its first word; strip it to show it alone.
    text: str
    # Seconds from the beginning of the recording.
    start: float
    end: float
    # Its tokens, those of its times included and the end token not.
    ids: tuple[int, ...]
    # What the window's tokens were drawn with; 0.0: they are the likeliest ones.
    temperature: float
    # Mean log-probability of the window's tokens, the end token counted in.
    average_logprob: float
    # How many times shorter the window's tokens or text become when compressed; high where the
    # model repeats itself.
    compression_ratio: float
    # How likely the model found it that nobody speaks in the window, 0 to 1.
    no_speech_probability: float
    # The code of its language, such as "de".
    language: str
    # None where nobody asked for words.
    words: tuple[Word, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transcript:
    """What a whole recording says."""

    # Of all segments, without a space around it.
    text: str
    # The code of the language, such as "de"; of several the first window's.
    language: str
    # How likely the language is among all that the model knows; None where it was not detected.
    language_probability: float | None
    # Seconds of the recording.
    duration: float
    segments: tuple[Segment, ...]


def share_time(texts: Sequence[str], segment: Segment, probability: float) -> list[Word]:
    """The parts of a segment's text, with the shares of its time that their characters have.

    For words whose own times nobody knows.
    """
    total, lasts = sum(map(len, texts)), max(0.0, segment.end - segment.start)
    words: list[Word] = []
    before, start = 0, segment.start
    for text in texts:
        before += len(text)
        end = segment.start + lasts * before / total
        words.append(Word(text=text, start=start, end=end, probability=probability))
        start = end
    return words
