"""Recordings of any length to segments with times: several at once, one window of each.

`Transcriber(model).transcribe("talk.wav")` is a `Transcript`; `stream` gives its segments as they
are found. Windows of several recordings, or of one in batched mode, are decoded in one batch, and
none depends on what is decoded beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np

from seq2edge.errors import InputError, OptionError
from seq2edge.runtime.group import Group
from seq2edge.runtime.inputs import Audio, refuse_one_string
from seq2edge.runtime.model import Model
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.request import rows_of
from seq2edge.runtime.scheduler import ROWS, Scheduler
from seq2edge.runtime.sound.activity import speech_spans
from seq2edge.runtime.sound.log_mel import FRAME_RATE, FRAMES, SAMPLING_RATE, check_samples
from seq2edge.runtime.sound.recording import read_samples
from seq2edge.runtime.sound.resampling import Samples
from seq2edge.runtime.speech.attempts import Attempts, drawn_rows
from seq2edge.runtime.speech.batched_windows import BatchedWindows
from seq2edge.runtime.speech.exact_windows import ExactWindows
from seq2edge.runtime.speech.options import SpeechOptions
from seq2edge.runtime.speech.tokens import SpeechTokens
from seq2edge.runtime.speech.transcript import Segment, Transcript
from seq2edge.runtime.speech.windows import Hints, Part, Windows
from seq2edge.runtime.speech.words import check_words, times_of_words

# Seconds of a recording that are done, and those that it has.
Progress: TypeAlias = Callable[[float, float], None]


class Transcriber:
    """A speech model and how it transcribes; for any thread, as the model is."""

    def __init__(
        self,
        model: Model,
        options: SpeechOptions | None = None,
        decode: DecodeOptions | None = None,
    ) -> None:
        """`decode` says how tokens are searched for at temperature 0; beams, for example.

        By default the bundle's own. Raises InputError for a model that does not transcribe, a
        language or task that it does not know, and OptionError for times that it cannot write or
        more texts of a window than its backend decodes at a time.
        """
        self.model, self.options = model, options or SpeechOptions()
        self.decode = decode or model.options
        self.tokens = SpeechTokens.of(model)
        if self.options.words:
            check_words(model)
        self._drawn = drawn_rows(model, self.options, self.decode)
        self._language = self.tokens.language(self.options)
        self.tokens.asking(self._language, self.options)
        texts = (self.options.initial_prompt, self.options.hotwords, self.options.prefix)
        self._hints = Hints()
        if any(texts):
            self._hints = Hints.of(self.options, self.tokens, self._encode)
        # What reads samples has no window to fill: it is given the parts in which somebody speaks.
        self._by_parts = model.dims.samples is not None or self.options.mode == "batched"
        if model.dims.samples is None and model.dims.frames != FRAMES:
            raise InputError(f"{model.bundle.path}: not made for windows of 30 s")
        if self._by_parts and self.options.prefix is not None:
            raise OptionError("prefix: parts in which somebody speaks have no first window")

    def transcribe(self, recording: Audio, *, progress: Progress | None = None) -> Transcript:
        """What a recording says: a path of a sound file, or samples (length,) at 16 kHz.

        `progress` is called after each window. Raises InputError for what is no sound.
        """
        return self.stream(recording, progress=progress).transcript

    def transcribe_each(self, recordings: Iterable[Audio]) -> Iterator[Transcript]:
        """Those of any number of recordings, in their order; `options.batch` are read at a time.

        Raises InputError for one that cannot be read, behind the transcripts before it.
        """
        refuse_one_string(recordings)
        waiting: list[_Recording] = []
        failure: list[InputError] = []

        def opened() -> Iterator[_Recording]:
            try:
                for recording in recordings:
                    waiting.append(self._open(recording))
                    yield waiting[-1]
            except InputError as error:
                failure.append(error)

        for _ in self._work(opened()):
            while waiting and waiting[0].done:
                yield waiting.pop(0).transcript()
        yield from (each.transcript() for each in waiting)
        if failure:
            raise failure[0]

    def stream(self, recording: Audio, *, progress: Progress | None = None) -> SegmentStream:
        """The segments of a recording as they are found; `.transcript` is the whole."""
        return SegmentStream(self, self._open(recording), progress)

    def detect_language(self, recording: Audio) -> dict[str, float]:
        """How likely each language is that the model knows, in a recording's first 30 s.

        The likeliest first; of a model of one language that one.
        """
        return self._detect(self._samples(recording))

    def _detect(self, samples: Samples) -> dict[str, float]:
        if not self.tokens.languages:
            return {self.tokens.language(SpeechOptions()) or "": 1.0}
        windows = ExactWindows(
            samples[: SAMPLING_RATE * 30],
            self.tokens,
            self.options,
            mels=self.model.dims.mels,
            hints=Hints(),
        )
        window = windows.next()
        assert window is not None
        attempts = Attempts(self.model, self.tokens, self.options, self.decode, window, None)
        scheduler = Scheduler(self.model.backend)
        group = scheduler.submit(attempts.question())
        scheduler.run()
        attempts.asked(group)
        assert attempts.probabilities is not None
        return attempts.probabilities

    def _encode(self, text: str) -> Sequence[int]:
        return self.model.tokenizer.encode(text, special_tokens=False)

    def _samples(self, recording: Audio) -> Samples:
        """Those of a path or an array, 16 kHz."""
        if isinstance(recording, np.ndarray):
            samples = np.asarray(recording, np.float32)
        else:
            samples = read_samples(recording)
        check_samples(samples)
        return samples

    def _open(self, recording: Audio) -> _Recording:
        samples = self._samples(recording)
        options = self.options
        spans = None
        if options.skip_silence or self._by_parts:
            spans = speech_spans(samples)
        kind = BatchedWindows if self._by_parts else ExactWindows
        windows: Windows = kind(
            samples,
            self.tokens,
            options,
            mels=self.model.dims.mels,
            hints=self._hints,
            spans=spans,  # type: ignore[arg-type]
        )
        return _Recording(self, samples, windows, self._language)

    def _rows(self) -> int:
        """How many sequences are decoded at a time."""
        searched = max(1, self.decode.num_beams, rows_of(self.decode))
        drawn = self._drawn if any(self.options.temperatures) else 1
        batch, widest = self.options.batch, max(searched, drawn)
        # Few windows are drawn again, so a large batch takes no room for all of them.
        most = self.model.backend.rows or max(ROWS, batch * searched)
        return max(widest, min(batch * widest, most))

    def _work(self, recordings: Iterator[_Recording]) -> Iterator[_Recording]:
        """Decode them together; each of them whenever something of it is done."""
        scheduler = Scheduler(self.model.backend, rows=self._rows())
        running: list[_Recording] = []
        while True:
            free = self.options.batch - sum(len(each.groups) for each in running)
            for each in running:
                free -= each.begin(scheduler, free)
            while free > 0 and (new := next(recordings, None)) is not None:
                if new.done:
                    yield new
                    continue
                running.append(new)
                free -= new.begin(scheduler, free)
            if not running:
                return
            scheduler.step()
            for each in running:
                if each.collect(scheduler):
                    yield each
            running = [each for each in running if not each.done]


class SegmentStream:
    """The segments of a recording, each as soon as nothing changes it, as an iterator.

    Whoever asks for the next one runs the model, so a stream that is dropped runs no further.
    """

    def __init__(
        self, transcriber: Transcriber, recording: _Recording, progress: Progress | None
    ) -> None:
        self._recording = recording
        self._segments = self._generate(transcriber, progress)

    def __iter__(self) -> Iterator[Segment]:
        return self._segments

    def __next__(self) -> Segment:
        return next(self._segments)

    @property
    def transcript(self) -> Transcript:
        """All of it; what remains of the stream is decoded first, and dropped."""
        for _ in self._segments:
            pass
        return self._recording.transcript()

    def _generate(self, transcriber: Transcriber, progress: Progress | None) -> Iterator[Segment]:
        recording, first = self._recording, 0
        for _ in transcriber._work(iter([recording])):  # noqa: SLF001 - of this module
            if progress is not None:
                progress(recording.windows.seconds, recording.duration)
            new = recording.segments[first:]
            first += len(new)
            yield from new


class _Recording:
    """A recording on its way: its windows, those that are decoded now, what it says so far."""

    def __init__(
        self, transcriber: Transcriber, samples: Samples, windows: Windows, language: str | None
    ) -> None:
        self.windows, self.segments = windows, list[Segment]()
        self.groups: dict[Group, tuple[Attempts, bool]] = {}  # whether it asks for a language
        self.duration = len(samples) / SAMPLING_RATE
        self._transcriber, self._samples = transcriber, samples
        self._language = language
        self._probability: float | None = None
        self._heard_until = 0.0  # seconds, by the last word

    @property
    def done(self) -> bool:
        """Whether all windows were decoded."""
        return self.windows.done

    def begin(self, scheduler: Scheduler, most: int) -> int:
        """Submit as many windows as can be decoded now; how many."""
        owner = self._transcriber
        per_window = owner.options.language_per_window and bool(owner.tokens.languages)
        for count in itertools.count():
            if count >= most or (self._language is None and self.groups and not per_window):
                return count
            window = self.windows.next()
            if window is None:
                return count
            language = self._language
            if per_window and owner._language is None:  # noqa: SLF001 - of this module
                language = None
            attempts = Attempts(
                owner.model, owner.tokens, owner.options, owner.decode, window, language
            )
            self._submit(scheduler, attempts)
        raise AssertionError

    def _submit(self, scheduler: Scheduler, attempts: Attempts) -> None:
        asks = attempts.asks
        request = attempts.question() if asks else attempts.request()
        self.groups[scheduler.submit(request)] = attempts, asks

    def collect(self, scheduler: Scheduler) -> bool:
        """Take what was decoded, and try again what is doubtful; whether something is done.

        Raises what ended a request.
        """
        ended = [group for group in self.groups if group.done]
        taken = False
        for group in ended:
            attempts, asked = self.groups.pop(group)
            if asked:
                attempts.asked(group)
                self._submit(scheduler, attempts)
                continue
            heard = attempts.judge(group)
            if heard is None:
                self._submit(scheduler, attempts)
                continue
            if self._language is None:
                self._language = heard.language
                if attempts.probabilities is not None:
                    self._probability = attempts.probabilities[heard.language]
            parts = self.windows.take(attempts.window, heard)
            for _, together in itertools.groupby(parts, key=lambda part: part.window):
                self.segments += self._segments(list(together))
            taken = True
        return taken

    def _segments(self, parts: Sequence[Part]) -> list[Segment]:
        """Those of a window that say something, with their words where they are asked for."""
        segments = [self._segment(part) for part in parts]
        if self._transcriber.options.words:
            window, answer = parts[0].window, parts[0].heard.answer
            assert answer is not None
            segments = times_of_words(
                segments,
                answer,
                self._transcriber.model.tokenizer,
                clock=window.clock,
                seconds=window.frames / FRAME_RATE,
                heard_until=self._heard_until,
            )
            self._heard_until = max(
                (word.end for segment in segments for word in segment.words or ()),
                default=self._heard_until,
            )
        return [segment for segment in segments if segment.text.strip()]

    def _segment(self, part: Part) -> Segment:
        owner, heard = self._transcriber, part.heard
        return Segment(
            text=owner.model.tokenizer.decode(owner.tokens.text_ids(part.ids)),
            start=part.start / FRAME_RATE,
            end=part.end / FRAME_RATE,
            ids=part.ids,
            temperature=heard.temperature,
            average_logprob=heard.average_logprob,
            compression_ratio=heard.compression_ratio,
            no_speech_probability=heard.no_speech_probability,
            language=heard.language,
        )

    def transcript(self) -> Transcript:
        """All that was said. Of a recording in which nobody speaks the model is asked again."""
        if self._language is None:
            likely = self._transcriber._detect(self._samples)  # noqa: SLF001 - of this module
            self._language, self._probability = next(iter(likely.items()))
        return Transcript(
            text="".join(segment.text for segment in self.segments).strip(),
            language=self._language,
            language_probability=self._probability,
            duration=self.duration,
            segments=tuple(self.segments),
        )
