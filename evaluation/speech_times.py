"""Times of words and segments against a reference: how far starts and ends lie from the right ones.

Words of both are aligned by their texts; what was misheard has no error of time. An entry of the
reference is a word, or several: it starts where its first word does and ends where its last one
does.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from seq2edge.errors import InputError
from seq2edge.evaluation.normalization import normalize_basic
from seq2edge.files.storage import read_regular

if TYPE_CHECKING:
    from seq2edge.evaluation.answers import ModelRequest
    from seq2edge.evaluation.examples import Example
    from seq2edge.runtime.model import Model
    from seq2edge.runtime.speech.transcript import Transcript

SUFFIXES: Final = (".srt", ".json", ".tsv")
LARGEST: Final = 2**24  # bytes of a reference
CLOSE: Final = 0.2  # seconds within which a time is right
_CUE: Final = re.compile(
    r"\b(\d{1,4}):(\d\d):(\d\d)[,.](\d{3}) ?--> ?(\d{1,4}):(\d\d):(\d\d)[,.](\d{3})[^\n]*\n(.*?)"
    r"(?=\n[ \t]*\n|\Z)",
    re.DOTALL,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timed:
    """A text and when it is said, in seconds."""

    text: str
    start: float
    end: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Spoken:
    """A word in plain letters; the start or end of what it stands first or last in."""

    word: str
    start: float | None
    end: float | None


def read_times(path: Path) -> tuple[Timed, ...]:
    """What is said when, by a .srt, .tsv (start, end in ms, text) or .json of `transcribe`.

    Words where the file has them, segments otherwise. Raises InputError for other files.
    """
    try:
        text = read_regular(path, LARGEST, InputError).decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    kind = {".srt": _of_srt, ".tsv": _of_table, ".json": _of_json}.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path}: times are read of {', '.join(SUFFIXES)} files")
    try:
        entries = tuple(kind(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path}: not times as `transcribe` writes them") from None
    if not entries:
        raise InputError(f"{path}: holds no text with times")
    for entry in entries:
        if not (math.isfinite(entry.start) and 0 <= entry.start <= entry.end < math.inf):
            raise InputError(f"{path}: {entry.text!r:.40} from {entry.start} to {entry.end} s")
    return entries


def _of_srt(text: str) -> Iterator[Timed]:
    for cue in _CUE.finditer(text):
        hours, minutes, seconds, rest, *end, said = cue.groups()
        start = int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(rest) / 1000
        until = int(end[0]) * 3600 + int(end[1]) * 60 + int(end[2]) + int(end[3]) / 1000
        yield Timed(text=" ".join(said.split()), start=start, end=until)


def _of_table(text: str) -> Iterator[Timed]:
    for line in text.splitlines():
        start, end, said = line.split("\t", 2)
        if (start, end) != ("start", "end"):
            yield Timed(text=said, start=float(start) / 1000, end=float(end) / 1000)


def _of_json(text: str) -> Iterator[Timed]:
    values: Any = json.loads(text)
    segments = values.get("segments") or []
    words = values.get("words") or [word for each in segments for word in each.get("words") or ()]
    for entry in words or segments:
        said = entry["word"] if "word" in entry else entry["text"]
        yield Timed(text=str(said), start=float(entry["start"]), end=float(entry["end"]))


def transcripts(
    model: Model, examples: Sequence[Example], request: ModelRequest
) -> Iterator[Transcript]:
    """What is said when, with words where the bundle gives their times."""
    from seq2edge.evaluation.answers import transcriber
    from seq2edge.runtime.speech.words import has_words

    recordings = (str(example.input) for example in examples)
    yield from transcriber(model, request, request.options, words=has_words(model)).transcribe_each(
        recordings
    )


def time_errors(transcript: Transcript, reference: Sequence[Timed]) -> tuple[list[float], ...]:
    """Seconds by which starts and ends that both have lie later than those of the reference."""
    spoken: list[Timed] = []
    for segment in transcript.segments:
        parts = segment.words if segment.words is not None else (segment,)
        spoken += [Timed(text=part.text, start=part.start, end=part.end) for part in parts]
    ours, theirs = _words(spoken), _words(reference)
    matcher = difflib.SequenceMatcher(
        None, [each.word for each in ours], [each.word for each in theirs], autojunk=False
    )
    starts: list[float] = []
    ends: list[float] = []
    for block in matcher.get_matching_blocks():
        for i in range(block.size):
            mine, right = ours[block.a + i], theirs[block.b + i]
            if mine.start is not None and right.start is not None:
                starts.append(mine.start - right.start)
            if mine.end is not None and right.end is not None:
                ends.append(mine.end - right.end)
    return starts, ends


def _words(entries: Sequence[Timed]) -> list[_Spoken]:
    spoken: list[_Spoken] = []
    for entry in entries:
        words = normalize_basic(entry.text).split()
        for i, word in enumerate(words):
            start = entry.start if i == 0 else None
            end = entry.end if i == len(words) - 1 else None
            spoken.append(_Spoken(word=word, start=start, end=end))
    return spoken


def measure_times(which: str) -> Any:
    """Sums of a metric: of the "start" or "end" errors in ms, or of times that are "close"."""

    def measure(
        answers: Sequence[Transcript], examples: Sequence[Example]
    ) -> Iterator[Sequence[float]]:
        for answer, example in zip(answers, examples, strict=True):
            assert example.times is not None
            starts, ends = time_errors(answer, read_times(example.times))
            if which == "close":
                both = [abs(error) for error in itertools.chain(starts, ends)]
                yield float(sum(error <= CLOSE for error in both)), float(len(both))
            else:
                errors = starts if which == "start" else ends
                yield 1000 * sum(map(abs, errors)), float(len(errors))

    return measure
