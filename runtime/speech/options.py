"""How a recording is transcribed: one frozen record, beside `DecodeOptions` for the search."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from seq2edge.errors import OptionError

AUTO = "auto"
MOST_WINDOWS = 1024  # of a batch
MOST_DRAWN = 100  # texts of a window
LONGEST_HINT = 2**16  # characters of a prompt, hot words or a prefix


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechOptions:
    """How a recording is transcribed. Construction raises OptionError for what cannot be."""

    # A code or a name of a language in any case, such as "de" or "German"; "auto": what the model
    # hears in the first window of each recording.
    language: str = AUTO
    # With "auto": every window is asked for its language, for recordings of several.
    language_per_window: bool = False
    # "transcribe", or "translate" to English.
    task: Literal["transcribe", "translate"] = "transcribe"
    # Whether the model writes times, by which windows follow each other and segments are made.
    # Without them every window is a segment. None: where the model has tokens for them.
    timestamps: bool | None = None
    # Whether segments have words with times; for bundles that were exported with alignments.
    words: bool = False
    # "exact": windows follow the last time that was heard, one after the other. "batched": the
    # parts in which somebody speaks are read at once, without what was said before them.
    mode: Literal["exact", "batched"] = "exact"
    # So many windows are decoded at a time: of a batched recording, or of several recordings.
    batch: int = 8
    # What a window is decoded with, one after the other until its text passes the thresholds:
    # at 0.0 by the search of the DecodeOptions, above it drawn.
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    # So many texts of a window are drawn above 0.0, of which the likeliest is kept, at the last
    # temperature the likeliest that does not repeat itself. None: 5, or as many as the backend
    # decodes at a time; 1 where tokens are guessed.
    best_of: int | None = None
    # A text whose tokens become more times shorter when compressed repeats itself; None: any may.
    compression_ratio_threshold: float | None = 1.35
    # A text whose tokens have a lower log-probability on average is doubtful; None: none is.
    logprob_threshold: float | None = -1.0
    # A doubtful text is dropped where the model finds it likelier than this that nobody speaks;
    # None: never.
    no_speech_threshold: float | None = 0.6
    # Windows in which nobody speaks, by their sound alone, are not decoded: models invent there.
    skip_silence: bool = True
    # Whether the text before a window goes into its prompt.
    condition_on_previous: bool = True
    # A text that is taken as what was said before the first window: names, spellings, a style.
    initial_prompt: str | None = None
    # Words that stand before every window's prompt, to make them likelier.
    hotwords: str | None = None
    # The first words of the recording, which its text then begins with.
    prefix: str | None = None
    # Seconds in which a window's first segment begins; None: what the checkpoint says, or 1 s.
    max_initial_timestamp: float | None = None

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            if not any(getattr(self, name) is value for value in known) and (
                not isinstance(getattr(self, name), str) or getattr(self, name) not in known
            ):
                needs = " or ".join(map(str, known))
                raise OptionError(f"{name}: {getattr(self, name)!r:.60}, needs {needs}")
        if not isinstance(self.language, str) or not self.language:
            raise OptionError(f"language: {self.language!r}, needs a code, a name or 'auto'")
        if type(self.batch) is not int or not 1 <= self.batch <= MOST_WINDOWS:
            raise OptionError(f"batch: {self.batch!r}, needs 1 to {MOST_WINDOWS} windows")
        if self.best_of is not None and (
            type(self.best_of) is not int or not 1 <= self.best_of <= MOST_DRAWN
        ):
            raise OptionError(
                f"best_of: {self.best_of!r:.60}, needs 1 to {MOST_DRAWN} texts, or None"
            )
        object.__setattr__(self, "temperatures", _temperatures(self.temperatures))
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and least <= value <= most):
                raise OptionError(f"{name}: {value!r}, needs {least} to {most}, or None")
        for name in ("initial_prompt", "hotwords", "prefix"):
            _check_hint(name, getattr(self, name))
        self._check_together()

    def _check_together(self) -> None:
        if self.no_speech_threshold is not None and self.logprob_threshold is None:
            raise OptionError(
                "no_speech_threshold: needs a logprob_threshold too, since it drops doubtful texts"
            )
        if self.words and self.prefix is not None:
            raise OptionError("prefix: its words are not heard and have no times; leave words out")
        if self.mode == "batched" and self.prefix is not None:
            raise OptionError("prefix: a batched recording has no first window; use mode='exact'")

    def replace(self, **changes: Any) -> SpeechOptions:
        """A copy with some fields changed. Raises OptionError for unknown ones."""
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise OptionError(f"{name}: no such option, known: {', '.join(known)}")
        return dataclasses.replace(self, **changes)


# What may be chosen between; switches are compared by identity, since 1 is True too.
_KNOWN: dict[str, tuple[str | bool | None, ...]] = {
    "task": ("transcribe", "translate"),
    "mode": ("exact", "batched"),
    "language_per_window": (True, False),
    "timestamps": (True, False, None),
    "words": (True, False),
    "skip_silence": (True, False),
    "condition_on_previous": (True, False),
}
_RANGES: dict[str, tuple[float, float]] = {
    "compression_ratio_threshold": (0.0, 1e6),
    "logprob_threshold": (-1e6, 0.0),
    "no_speech_threshold": (0.0, 1.0),
    "max_initial_timestamp": (0.0, 30.0),
}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _temperatures(values: Any) -> tuple[float, ...]:
    """One or several as a tuple."""
    several = tuple(values) if isinstance(values, (list, tuple)) else (values,)
    if not several or not all(_is_number(value) and 0 <= value <= 10 for value in several):
        raise OptionError(f"temperatures: {values!r}, needs one or several numbers of 0 to 10")
    return tuple(float(value) for value in several)


def _check_hint(name: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, str) or not value.strip():
        raise OptionError(f"{name}: {value!r:.60}, needs a text or None")
    if len(value) > LONGEST_HINT:
        raise OptionError(f"{name}: {len(value):,} characters, {LONGEST_HINT:,} at most")
