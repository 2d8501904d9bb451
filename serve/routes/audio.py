"""`/v1/audio/transcriptions` and `/v1/audio/translations`, as OpenAI has them."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import math
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from typing import Any, BinaryIO, Final, Literal, TypeAlias

from starlette.datastructures import UploadFile
from starlette.responses import Response
from starlette.routing import Route

from seq2edge.runtime.model import Model
from seq2edge.runtime.sound.recording import read_samples
from seq2edge.runtime.speech.options import AUTO, SpeechOptions
from seq2edge.runtime.speech.transcriber import Transcriber
from seq2edge.runtime.speech.transcript import Segment, Transcript
from seq2edge.runtime.speech.writers import as_verbose_json, write_transcript
from seq2edge.serve.calls.call import Call, Serving, post
from seq2edge.serve.calls.fields import Fields
from seq2edge.serve.calls.parts import Check, run_in_parts

LONGEST: Final = 2 * 3600.0  # seconds of a recording: 460 MB of samples
Task: TypeAlias = Literal["transcribe", "translate"]
# The media type of each format.
FORMATS: Final = {
    "json": "application/json",
    "text": "text/plain; charset=utf-8",
    "verbose_json": "application/json",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}
GRANULARITIES: Final = "timestamp_granularities[]"
# What OpenAI's fields or the route say.
_SAID: Final = ("language", "task", "words", "initial_prompt", "temperatures")
OPTIONS: Final = tuple(
    field.name for field in dataclasses.fields(SpeechOptions) if field.name not in _SAID
)
_TEXTS: Final = ("hotwords", "prefix", "mode")  # of the options


def routes(serving: Serving) -> list[Route]:
    """See the package."""
    tasks: dict[str, Task] = {"transcriptions": "transcribe", "translations": "translate"}
    return [
        post(serving, f"/v1/audio/{name}", functools.partial(answered, task), body="form")
        for name, task in tasks.items()
    ]


async def answered(task: Task, call: Call) -> Response:
    """What a recording says. The form keeps it in a file without a name, which it closes."""
    files = [value for value in call.form.getlist("file") if isinstance(value, UploadFile)]
    fields = form_fields(
        (name, value) for name, value in call.form.multi_items() if isinstance(value, str)
    )
    name = fields.text("model")
    asked = SpeechRequest.of(fields, task)
    if not files:
        fields.refuse("file", "is needed, a recording")
    loaded = await call.model(name)
    threads = call.serving.recordings
    if not asked.stream:
        work = functools.partial(hear, loaded.model, files[0].file, asked.options)
        transcript = await run_in_parts(threads, work)
        return Response(asked.body(transcript), media_type=FORMATS[asked.form])
    loop, deltas = asyncio.get_running_loop(), asyncio.Queue[str | None]()

    def send(delta: str) -> None:
        loop.call_soon_threadsafe(deltas.put_nowait, delta)

    work = functools.partial(hear, loaded.model, files[0].file, asked.options, send=send)
    hearing = asyncio.create_task(run_in_parts(threads, work))
    hearing.add_done_callback(lambda _: deltas.put_nowait(None))
    call.held.push_async_callback(_end, hearing)
    first = await deltas.get()
    if first is None:
        await hearing  # what cannot be heard is refused

    async def events() -> AsyncGenerator[dict[str, Any], None]:
        delta = first
        while delta is not None:
            yield {"type": "transcript.text.delta", "delta": delta}
            delta = await deltas.get()
        transcript = await hearing
        usage = _usage(transcript)
        yield {"type": "transcript.text.done", "text": transcript.text, "usage": usage}

    return call.stream(events())


async def _end(task: asyncio.Task[Any]) -> None:
    """Cancel it and wait for its end."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def hear(
    model: Model,
    file: BinaryIO,
    options: SpeechOptions,
    check: Check,
    send: Callable[[str], object] = lambda _: None,
) -> Transcript:
    """The whole transcript; `send` gets the pieces of its text as they are heard."""
    transcriber = Transcriber(model, options)
    # Read by its descriptor: a spooled file lacks some of what libraries ask of a stream.
    descriptor = file.fileno()
    file.flush()
    with open(descriptor, "rb", closefd=False) as recording:
        recording.seek(0)
        samples = read_samples(recording, longest=LONGEST)
    stream = transcriber.stream(samples, progress=lambda *_: check())
    for delta in text_deltas(stream):
        send(delta)
    return stream.transcript


def form_fields(form: Iterable[tuple[str, str]]) -> Fields:
    """The fields of a form, in which every value is a text: numbers and switches as they are JSON.

    Raises Refusal for one that comes twice.
    """
    values: dict[str, Any] = {}
    for name, text in form:
        if name == GRANULARITIES:
            values.setdefault(name, []).append(text)
            continue
        if name in values:
            Fields(values).refuse(name, "comes twice")
        values[name] = text
        if name in ("stream", "temperature", *OPTIONS) and name not in _TEXTS:
            try:
                values[name] = json.loads(text)
            except (ValueError, RecursionError):
                Fields(values).refuse(name, f"{text!r:.60} is no JSON value")
    return Fields(values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechRequest:
    """What is asked of a recording."""

    options: SpeechOptions
    # One of `FORMATS`.
    form: str
    # Whether the text is sent as it is heard.
    stream: bool
    # What `verbose_json` has times of.
    granularities: frozenset[str]

    @classmethod
    def of(cls, fields: Fields, task: Task) -> SpeechRequest:
        """That of a form. Raises Refusal and OptionError for what is unknown or cannot be."""
        form = fields.choice("response_format", FORMATS, "json")
        stream = fields.flag("stream", False)
        marks = fields.texts(GRANULARITIES, ("segment",), most=2)
        if not {"segment", "word"}.issuperset(marks):
            fields.refuse(GRANULARITIES, "needs segment or word")
        if "word" in marks and form != "verbose_json":
            fields.refuse(GRANULARITIES, f"{form} has no times of words, verbose_json has")
        if stream and form not in ("json", "text"):
            fields.refuse("stream", f"{form} comes as a whole, only texts are streamed")
        temperature = fields.number("temperature", 0, least=0, most=1)
        changes = fields.rest(OPTIONS)
        if temperature > 0:
            changes["temperatures"] = (temperature,)
        options = SpeechOptions(
            task=task,
            language=fields.text("language", AUTO),
            initial_prompt=fields.text("prompt", "") or None,
            words="word" in marks,
            **changes,
        )
        fields.end()
        return cls(options=options, form=form, stream=stream, granularities=frozenset(marks))

    def body(self, transcript: Transcript) -> str:
        """The answer in the form that was asked for."""
        if self.form == "json":
            return _dumps({"text": transcript.text, "usage": _usage(transcript)})
        if self.form == "text":
            return f"{transcript.text}\n"
        if self.form == "verbose_json":
            values = as_verbose_json(transcript, self.options.task)
            if "segment" not in self.granularities:
                del values["segments"]
            return _dumps({**values, "usage": _usage(transcript)})
        return write_transcript(transcript, self.form)


def text_deltas(segments: Iterable[Segment]) -> Iterator[str]:
    """What each segment adds to the text of the transcript, without a space around the whole."""
    space: str | None = None  # behind what was sent, which nothing may follow
    for segment in segments:
        text = segment.text.lstrip() if space is None else space + segment.text
        kept = text.rstrip()
        space = text[len(kept) :]
        yield kept


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(transcript.duration)}


def _dumps(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False)
