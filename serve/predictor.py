"""Rows in, rows out: what batches, Ray and Triton run, each in processes of its own.

predictor = Predictor(bundle="translator", task="generate")
predictor([{"text": "Good morning"}])  # [{"results": [{"text": ..., "score": ...}]}]
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from seq2edge.errors import InputError, OptionError, Seq2EdgeError
from seq2edge.files.records import OPTIONAL, decode, parse_json

if TYPE_CHECKING:
    from seq2edge.runtime.group import Group
    from seq2edge.runtime.model import Model
    from seq2edge.runtime.options import DecodeOptions
    from seq2edge.runtime.request import Request
    from seq2edge.runtime.sequences import GeneratedText

# A row's id, which its answer has too; nothing else is made of it.
ID: Final = "id"
ERROR: Final = "error"
Row: TypeAlias = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextRow:
    """A text to generate from, or to tag."""

    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairRow:
    """A text to classify or embed; with `pair` the two are read as one."""

    text: str
    pair: str | None = dataclasses.field(default=None, metadata=OPTIONAL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatRow:
    """A conversation to answer: messages of `role` and `content`, and `tools` to call."""

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = dataclasses.field(default=(), metadata=OPTIONAL)
    tool_choice: str = dataclasses.field(default="auto", metadata=OPTIONAL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioRow:
    """The path of a recording; a relative one begins at `Predictor.folder`."""

    audio: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class RerankRow:
    """Texts to order by how well they answer the query."""

    query: str
    texts: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictor:
    """A bundle and what it makes of rows. Pickled as its settings; the first call loads the model.

    Raises OptionError for a task that is none.
    """

    bundle: str
    # generate, chat, transcribe, embed, classify, tag or rerank.
    task: str
    # Arguments of `seq2edge.load`, such as device and threads.
    load: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # Fields of `DecodeOptions` in the place of the bundle's own.
    decode: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # Of a multilingual model's texts; the source language also of recordings.
    source_language: str | None = None
    target_language: str | None = None
    # So many rows are run at a time.
    batch: int = 8
    # Where relative paths of recordings begin.
    folder: str = ""

    def __post_init__(self) -> None:
        if self.task not in _TASKS:
            raise OptionError(f"task: {self.task!r}, needs one of {', '.join(_TASKS)}")

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @functools.cached_property
    def model(self) -> Model:
        """The bundle on a backend. Raises what `load` does, and InputError for another task."""
        from seq2edge.runtime.model import load

        model = load(self.bundle, **self.load)
        made_to = model.bundle.manifest.task
        if made_to not in _TASKS[self.task].made_to:
            raise InputError(f"{self.bundle}: made to {made_to}, it cannot {self.task}")
        return model

    @functools.cached_property
    def options(self) -> DecodeOptions:
        """How answers are decoded. Raises OptionError for what cannot be."""
        return self.model.options.replace(**self.decode)

    def __call__(self, rows: Sequence[Row | bytes]) -> list[Row]:
        """A row for each, in their order; with `error` alone where that row cannot be answered.

        A row, also as the bytes of its JSON, is what the task reads, and may have an `id`, which
        its answer bears too. Raises what opening the bundle does.
        """
        task, _ = _TASKS[self.task], self.options
        read = [_read(task.reads, row) for row in rows]
        records = [record for record, _ in read if not isinstance(record, Seq2EdgeError)]
        answers = task.run(self, records)
        return [
            {
                **(_failed(record) if isinstance(record, Seq2EdgeError) else next(answers)),
                **identity,
            }
            for record, identity in read
        ]


def _read(reads: type, row: Row | bytes) -> tuple[Any, Row]:
    """The record of a row, or why there is none, and its id."""
    identity: Row = {}
    try:
        values = parse_json(row) if isinstance(row, bytes) else row
        if isinstance(values, dict) and ID in values:
            identity = {ID: values[ID]}
            values = {key: value for key, value in values.items() if key != ID}
        return decode(reads, values), identity
    except Seq2EdgeError as error:
        return error, identity


def _failed(error: Seq2EdgeError) -> Row:
    return {ERROR: str(error)}


Run: TypeAlias = Callable[[Predictor, Sequence[Any]], "Iterator[Row]"]


def _in_batches(run: Run) -> Run:
    """`run` on a batch of rows at a time; where that fails, on each row of it alone."""

    def call(predictor: Predictor, rows: Sequence[Any]) -> Iterator[Row]:
        for first in range(0, len(rows), predictor.batch):
            batch = rows[first : first + predictor.batch]
            try:
                answers = list(run(predictor, batch))
            except Seq2EdgeError as error:
                if len(batch) == 1:
                    answers = [_failed(error)]
                else:
                    answers = [answer for row in batch for answer in call(predictor, [row])]
            yield from answers

    return call


def _decoded(request: Callable[[Predictor, Any], Request]) -> Run:
    """Generate for all rows, each joining the running batch when there is room."""

    def call(predictor: Predictor, rows: Sequence[Any]) -> Iterator[Row]:
        from seq2edge.runtime.request import rows_of
        from seq2edge.runtime.scheduler import Scheduler

        model = predictor.model
        scheduler = Scheduler(model.backend, rows=predictor.batch * rows_of(predictor.options))

        def submit(row: Any) -> Group | Seq2EdgeError:
            try:
                return scheduler.submit(request(predictor, row))
            except Seq2EdgeError as error:
                return error

        submitted = list(map(submit, rows))
        scheduler.run()
        return (_results(model, each) for each in submitted)

    return call


def _results(model: Model, group: Group | Seq2EdgeError) -> Row:
    """The texts of a request that is done, best first, or why there are none."""
    if isinstance(group, Seq2EdgeError):
        return _failed(group)
    try:
        texts = model.texts_of(group)
    except Seq2EdgeError as error:
        return _failed(error)
    return {"results": list(map(_result, texts))}


def _result(text: GeneratedText) -> Row:
    result = {name: getattr(text, name) for name in ("text", "score", "finish_reason")}
    if text.tool_calls:
        result["tool_calls"] = [call.record for call in text.tool_calls]
    return result


def _text_request(predictor: Predictor, row: TextRow) -> Request:
    return predictor.model.text_request(
        row.text,
        predictor.options,
        source_language=predictor.source_language,
        target_language=predictor.target_language,
    )


def _chat_request(predictor: Predictor, row: ChatRow) -> Request:
    from seq2edge.runtime.tools import Tools

    messages = [dict(message) for message in row.messages]
    tools = Tools(row.tools, row.tool_choice) if row.tools else None
    return predictor.model.chat_request(messages, predictor.options, tools=tools)


def _transcribe(predictor: Predictor, rows: Sequence[AudioRow]) -> Iterator[Row]:
    from seq2edge.runtime.speech.options import AUTO, SpeechOptions
    from seq2edge.runtime.speech.transcriber import Transcriber
    from seq2edge.runtime.speech.writers import as_json

    speech = SpeechOptions(batch=predictor.batch, language=predictor.source_language or AUTO)
    transcriber = Transcriber(predictor.model, speech, predictor.options)
    recordings = [Path(predictor.folder, row.audio) for row in rows]
    yield from map(as_json, transcriber.transcribe_each(recordings))


def _texts(rows: Sequence[PairRow]) -> list[Any]:
    return [row.text if row.pair is None else (row.text, row.pair) for row in rows]


def _embed(predictor: Predictor, rows: Sequence[PairRow]) -> Iterator[Row]:
    model = predictor.model
    if model.bundle.manifest.task == "weigh":
        yield from ({"weights": weights} for weights in model.weigh(_texts(rows)))
    else:
        yield from ({"embedding": vector.tolist()} for vector in model.embed(_texts(rows)))


def _classify(predictor: Predictor, rows: Sequence[PairRow]) -> Iterator[Row]:
    yield from map(dataclasses.asdict, predictor.model.classify(_texts(rows)))


def _tag(predictor: Predictor, rows: Sequence[TextRow]) -> Iterator[Row]:
    for entities in predictor.model.tag([row.text for row in rows], batch=predictor.batch):
        yield {"entities": list(map(dataclasses.asdict, entities))}


def _rerank(predictor: Predictor, rows: Sequence[RerankRow]) -> Iterator[Row]:
    for row in rows:
        ranked = predictor.model.rerank(row.query, row.texts, batch=predictor.batch)
        yield {"ranked": list(map(dataclasses.asdict, ranked))}


@dataclasses.dataclass(frozen=True)
class _Task:
    """What a task's rows are, what runs them, and what bundles for it are made to."""

    reads: type
    run: Run
    made_to: tuple[str, ...]


_TASKS = {
    "generate": _Task(TextRow, _decoded(_text_request), ("generate",)),
    "chat": _Task(ChatRow, _decoded(_chat_request), ("generate",)),
    "transcribe": _Task(AudioRow, _in_batches(_transcribe), ("transcribe",)),
    "embed": _Task(PairRow, _in_batches(_embed), ("embed", "weigh")),
    "classify": _Task(PairRow, _in_batches(_classify), ("classify",)),
    "tag": _Task(TextRow, _in_batches(_tag), ("tag",)),
    "rerank": _Task(RerankRow, _in_batches(_rerank), ("classify",)),
}
TASKS: Final = tuple(_TASKS)


def as_line(answer: Row) -> bytes:
    """An answer as a line of JSON, without its end."""
    # Half a pair of UTF-16, which UTF-8 cannot hold, becomes just the escape that JSON has for it.
    return json.dumps(answer, ensure_ascii=False).encode("utf-8", "backslashreplace")


def refuse_files(predictor: Predictor) -> None:
    """Raise OptionError for a task whose rows name files, which no server opens for others."""
    if _TASKS[predictor.task].reads is AudioRow:
        raise OptionError(f"task: {predictor.task} reads files that its rows name; use batch")
