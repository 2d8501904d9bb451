"""The tokens with which a speech model is asked for something, and those it answers with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from seq2edge.errors import InputError, OptionError
from seq2edge.runtime.speech.language import language_code
from seq2edge.runtime.speech.options import AUTO, SpeechOptions

if TYPE_CHECKING:
    from seq2edge.runtime.model import Model

STEP = 0.02  # seconds from one token of time, or one position of the encoder, to the next
LATEST = 1.0  # seconds in which a first segment begins, where no checkpoint says it
ENGLISH = "en"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechTokens:
    """Of a model's vocabulary; None where the model has none."""

    start: int  # of a transcription
    end: int  # of what is said; the tokens below it are its text
    positions: int  # of a decoder
    languages: Mapping[str, int]
    tasks: Mapping[str, int]
    no_timestamps: int | None
    first_timestamp: int | None
    no_speech: int | None
    previous: int | None  # what was said before follows it
    latest: int | None  # steps of time in which a first segment begins

    @classmethod
    def of(cls, model: Model) -> SpeechTokens:
        """Those of a model. Raises InputError for one that was not made to transcribe."""
        manifest = model.bundle.manifest
        speech, dims = manifest.speech, model.dims
        if manifest.task != "transcribe" or speech is None or dims.decoder is None:
            raise InputError(f"{model.bundle.path}: made to {manifest.task}, it cannot transcribe")
        ends = model.options.eos_token_id
        # Older bundles do not say what Whisper's vocabularies have in these places.
        none = speech.no_timestamps
        first, silence, previous = speech.first_timestamp, speech.no_speech, speech.previous
        if none is not None and first is None:
            first, silence, previous = none + 1, none - 1, none - 2
        if first is not None and first >= dims.vocab:
            first = None
        return cls(
            start=model.start_tokens(model.options)[0],
            # Whisper's special tokens are the last ones, in other vocabularies the first ones.
            end=ends[0] if ends and dims.mels else dims.vocab,
            positions=dims.decoder.max_positions,
            languages=speech.languages,
            tasks=speech.tasks,
            no_timestamps=speech.no_timestamps,
            first_timestamp=first,
            no_speech=silence,
            previous=previous,
            latest=speech.max_initial_timestamp,
        )

    @property
    def longest_before(self) -> int:
        """Tokens of what was said before that a prompt holds, half of the decoder's positions."""
        return max(0, self.positions // 2 - 1)

    def text_ids(self, ids: Sequence[int]) -> list[int]:
        """The ids among some that are text, no times and no end."""
        return [token for token in ids if token < self.end]

    def language(self, options: SpeechOptions) -> str | None:
        """The code of the language that the options ask for; None: it is to be detected.

        Raises InputError for a language that the model does not know.
        """
        if not self.languages:
            known = {ENGLISH: 0}
            return (
                ENGLISH
                if options.language.lower() == AUTO
                else language_code(options.language, known)
            )
        if options.language.lower() == AUTO:
            return None
        return language_code(options.language, self.languages)

    def with_times(self, options: SpeechOptions) -> bool:
        """Whether the model writes times. Raises OptionError where it cannot and has to."""
        has = self.first_timestamp is not None
        if options.timestamps and not has:
            raise OptionError("timestamps: this model has no tokens of time; use timestamps=False")
        return has if options.timestamps is None else options.timestamps

    def asking(self, language: str | None, options: SpeechOptions) -> tuple[int, ...]:
        """What follows the start: language, task, no times. Any language where None is known."""
        ids: list[int] = []
        if self.languages:
            code = next(iter(self.languages)) if language is None else language
            if options.task not in self.tasks:
                known = ", ".join(sorted(self.tasks)) or "none"
                raise InputError(f"task: {options.task!r} is unknown, known: {known}")
            ids += [self.languages[code], self.tasks[options.task]]
        elif options.task != "transcribe":
            raise InputError(f"task: {options.task!r}, this model knows English and no other task")
        if not self.with_times(options) and self.no_timestamps is not None:
            ids.append(self.no_timestamps)
        return tuple(ids)
