"""What is written of a transcript: plain text, JSON, subtitles (SRT, WebVTT), tables (TSV).

Texts, tables and subtitles are written segment by segment, JSON of whole transcripts. Subtitles are
cut into lines and cues that can be read: by the words' times, or where there are none by how many
characters a word has of its segment.
"""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from seq2edge.errors import OptionError
from seq2edge.runtime.sound.log_mel import FRAME_RATE
from seq2edge.runtime.speech.language import NAMES
from seq2edge.runtime.speech.transcript import FORMATS, Segment, Transcript, Word, share_time

ARROW: Final = "-->"  # between the times of a cue; in its text it would end the file for a reader


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How subtitles are laid out."""

    # Characters of a line at most, but for a single longer word.
    width: int = 42
    # Lines of a cue at most.
    lines: int = 2
    # Of WebVTT: a mark of when each word is said, for players that highlight it.
    highlight: bool = False

    def __post_init__(self) -> None:
        """Raise OptionError for lines that hold nothing."""
        for name in ("width", "lines"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}: {getattr(self, name)} of subtitles, at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cue:
    """What is shown at a time: lines of words."""

    start: int  # milliseconds
    end: int
    lines: tuple[tuple[Word, ...], ...]


Streamed: TypeAlias = Callable[[Iterable[Segment], Layout], Iterator[str]]


def write_transcript(
    transcript: Transcript, form: str, layout: Layout | None = None, *, task: str = "transcribe"
) -> str:
    """A transcript in one of the `FORMATS`. Raises OptionError for another one.

    `task` is what `verbose_json` says was done.
    """
    if form == "json":
        return json.dumps(as_json(transcript), ensure_ascii=False) + "\n"
    if form == "verbose_json":
        return json.dumps(as_verbose_json(transcript, task), ensure_ascii=False) + "\n"
    if form not in STREAMED:
        raise OptionError(f"format: {form!r} is unknown, known: {', '.join(FORMATS)}")
    return "".join(STREAMED[form](transcript.segments, layout or Layout()))


def write_text(segments: Iterable[Segment], _: Layout) -> Iterator[str]:
    """A line for each segment that says something."""
    for segment in segments:
        if text := plain(segment.text):
            yield f"{text}\n"


def write_table(segments: Iterable[Segment], _: Layout) -> Iterator[str]:
    """Start and end in milliseconds, and the text, between tabs; with a line of heads."""
    yield "start\tend\ttext\n"
    for segment in segments:
        if text := plain(segment.text):
            yield f"{round(segment.start * 1000)}\t{round(segment.end * 1000)}\t{text}\n"


def write_srt(segments: Iterable[Segment], layout: Layout) -> Iterator[str]:
    """SubRip: numbered cues. It has no escapes, so what looks like an arrow or a tag is parted."""
    for number, cue in enumerate(cues(segments, layout), start=1):
        lines = "\n".join(_srt_text(_text_of(line)) for line in cue.lines)
        times = f"{clock(cue.start, ',')} {ARROW} {clock(cue.end, ',')}"
        yield f"{number}\n{times}\n{lines}\n\n"


def _srt_text(text: str) -> str:
    """Without an arrow; a word joiner, which nobody sees, behind a < that would begin a tag."""
    return re.sub(r"<(?=\s*/?\s*[A-Za-z])", "<\u2060", text.replace(ARROW, "->"))


def write_vtt(segments: Iterable[Segment], layout: Layout) -> Iterator[str]:
    """WebVTT (W3C); with `highlight` each word stands behind the time when it begins."""
    yield "WEBVTT\n\n"
    for cue in cues(segments, layout):
        lines = "\n".join(_vtt_line(line, cue, layout) for line in cue.lines)
        yield f"{clock(cue.start)} {ARROW} {clock(cue.end)}\n{lines}\n\n"


def _vtt_line(line: tuple[Word, ...], cue: Cue, layout: Layout) -> str:
    if not layout.highlight:
        return _vtt_text(_text_of(line))
    parts = []
    for i, word in enumerate(line):
        begin = min(max(round(word.start * 1000), cue.start), cue.end)
        text = _vtt_text(plain(word.text))
        space = " " if i and word.text[:1].isspace() else ""
        inside = cue.start < begin < cue.end  # others are no times of the cue, as WebVTT wants
        parts.append(f"{space}<{clock(begin)}><c>{text}</c>" if inside else f"{space}<c>{text}</c>")
    return "".join(parts)


def _vtt_text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def as_json(transcript: Transcript) -> dict[str, Any]:
    """Everything that a transcript holds, by the names of its fields."""
    return dataclasses.asdict(transcript)


def as_verbose_json(transcript: Transcript, task: str = "transcribe") -> dict[str, Any]:
    """What OpenAI's API calls `verbose_json`, by its names; its `language` is a name.

    `seek` is where the segment begins in frames of 10 ms: its window is not kept.
    """
    names = NAMES.get(transcript.language, (transcript.language,))
    values: dict[str, Any] = {
        "task": task,
        "language": names[0],
        "duration": transcript.duration,
        "text": transcript.text,
        "segments": [_verbose(i, segment) for i, segment in enumerate(transcript.segments)],
    }
    if any(segment.words is not None for segment in transcript.segments):
        values["words"] = [
            {"word": word.text.strip(), "start": word.start, "end": word.end}
            for segment in transcript.segments
            for word in segment.words or ()
        ]
    return values


def _verbose(number: int, segment: Segment) -> dict[str, Any]:
    return {
        "id": number,
        "seek": round(segment.start * FRAME_RATE),
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": list(segment.ids),
        "temperature": segment.temperature,
        "avg_logprob": segment.average_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_probability,
    }


STREAMED: Final[dict[str, Streamed]] = {
    "text": write_text,
    "srt": write_srt,
    "vtt": write_vtt,
    "tsv": write_table,
}
# How a recording's file is called, behind the recording's own name.
SUFFIXES: Final = {
    "text": ".txt",
    "json": ".json",
    "verbose_json": ".verbose.json",
    "srt": ".srt",
    "vtt": ".vtt",
    "tsv": ".tsv",
}


def cues(segments: Iterable[Segment], layout: Layout) -> Iterator[Cue]:
    """The segments in lines and cues of the layout, in whole milliseconds; no two overlap.

    What says nothing is left out, what takes no time lasts a millisecond.
    """
    until = 0
    for segment in segments:
        lines = _lines(_timed(segment, layout.width), layout.width)
        for first in range(0, len(lines), layout.lines):
            group = lines[first : first + layout.lines]
            start = max(until, round(group[0][0].start * 1000))
            until = max(start + 1, round(group[-1][-1].end * 1000))
            yield Cue(start=start, end=until, lines=tuple(map(tuple, group)))


def _timed(segment: Segment, width: int) -> list[Word]:
    """A segment's words, or the parts of its text with the shares of its time."""
    if segment.words is not None:
        return [word for word in segment.words if plain(word.text)]
    text = plain(segment.text)
    parts = [
        part[i : i + width]
        for part in re.findall(r"\s?\S+", text)
        for i in range(0, len(part), width)
    ]
    return share_time(parts, segment, 0.0)


def _lines(words: Sequence[Word], width: int) -> list[list[Word]]:
    """Words in lines, each as long as it may be; where there are spaces, lines begin at one."""
    spaced = any(word.text[:1].isspace() for word in words)
    together: list[list[Word]] = []  # what no line may part
    for word in words:
        if together and spaced and not word.text[:1].isspace():
            together[-1].append(word)
        else:
            together.append([word])
    lines: list[list[Word]] = []
    for parts in together:
        if lines and len(_text_of((*lines[-1], *parts))) <= width:
            lines[-1] += parts
        else:
            lines.append(parts)
    return lines


def _text_of(line: Iterable[Word]) -> str:
    return plain("".join(word.text for word in line))


def plain(text: str) -> str:
    """A text in one line: single spaces, no control characters."""
    kept = "".join(c for c in text if c.isspace() or unicodedata.category(c) != "Cc")
    return " ".join(kept.split())


def clock(milliseconds: int, point: str = ".") -> str:
    """Hours of two digits or more, minutes, seconds and milliseconds."""
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{rest:03d}"
