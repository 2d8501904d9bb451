"""What chats and completions share: options by OpenAI's names and ours, answers and what they took.

A field of OpenAI's is read as the option of ours that means the same, and two that mean one are
refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from starlette.responses import JSONResponse, Response

from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.request import Request
from seq2edge.runtime.sequences import GeneratedText
from seq2edge.runtime.service import Piece, Reply, results_of
from seq2edge.runtime.tokenizer import Tokenizer
from seq2edge.serve.calls.call import USED, Call
from seq2edge.serve.calls.fields import Fields
from seq2edge.serve.calls.pool import Loaded

MOST_TOP = 20  # of the likeliest tokens at each place, as OpenAI gives
SAME = {  # OpenAI's names of options
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "n": "num_return_sequences",
    "stop": "stop_strings",
}
DRAWING = ("temperature", "top_p", "top_k", "min_p", "typical_p")
OWN = tuple(field.name for field in dataclasses.fields(DecodeOptions) if field.name != "logprobs")
FINISH = {
    "stop": "stop",
    "stop_string": "stop",
    "length": "length",
    "time": "length",
    "cancelled": "stop",
}


def read_options(fields: Fields) -> dict[str, Any]:
    """What a request changes of the model's options."""
    changes = fields.rest(OWN)
    for name, value in fields.rest(tuple(SAME)).items():
        if SAME[name] in changes:
            fields.refuse(name, f"means {SAME[name]}, which is there too; give one")
        changes[SAME[name]] = value
    bias = fields.take("logit_bias", None)
    if bias is not None:
        changes["sequence_bias"] = _biases(fields, bias)
    _read_format(fields, changes)
    if changes.get("temperature") == 0:  # as OpenAI asks for the likeliest
        del changes["temperature"]
        changes.setdefault("do_sample", False)
    elif any(name in changes for name in DRAWING):
        changes.setdefault("do_sample", True)
    if "max_new_tokens" in changes:
        changes.setdefault("max_length", None)
    return changes


def read_languages(fields: Fields) -> dict[str, str | None]:
    """Those that a multilingual model reads and writes."""
    return {side: fields.text(side, None) for side in ("source_language", "target_language")}


def _biases(fields: Fields, bias: Any) -> list[tuple[list[int], Any]]:
    if not isinstance(bias, dict) or not all(name.isdecimal() for name in bias):
        fields.refuse("logit_bias", "needs an object of token ids and numbers")
    return [([int(name)], value) for name, value in bias.items()]


def _read_format(fields: Fields, changes: dict[str, Any]) -> None:
    """`response_format`, as the schema that it means."""
    form = fields.inner("response_format", None)
    if form is None:
        return
    kind = form.choice("type", ("text", "json_object", "json_schema"))
    if kind == "json_schema":
        schema = form.inner("json_schema")
        for name in ("name", "description"):
            schema.text(name, None)
        schema.flag("strict", None)  # every schema is kept to
        changes["json_schema"] = schema.take("schema")
        schema.end()
    elif kind == "json_object":
        changes["json_schema"] = {"type": "object"}
    form.end()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Streaming:
    """Whether an answer comes in pieces, and whether what it took is told behind them."""

    stream: bool
    usage: bool

    @classmethod
    def read(cls, fields: Fields) -> Streaming:
        """Those of a request."""
        stream = fields.flag("stream", False)
        options = fields.inner("stream_options", None)
        usage = False
        if options is not None:
            usage = options.flag("include_usage", False)
            options.end()
            if not stream:
                fields.refuse("stream_options", "needs stream")
        return cls(stream=stream, usage=usage)


class Generation:
    """The answers to one call: `name` begins its id, `kind` is what OpenAI calls it."""

    def __init__(self, call: Call, loaded: Loaded, *, model: str, name: str, kind: str) -> None:
        self._call, self._loaded = call, loaded
        self._head = {
            "id": f"{name}-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": model,
        }
        self._replies: list[Reply] = []
        self._begins: list[int] = []  # when each was submitted
        self._prompt_tokens = self._cached_tokens = 0

    async def submit(self, make: Callable[[], Request]) -> None:
        """Let a request of the model be decoded, which is read in a thread."""
        request = await self._call.run(make)
        self._prompt_tokens += request.source_length or len(request.prompt)
        prefixes = self._call.serving.prefixes
        if prefixes is not None and request.source is None:
            begin = prefixes.begin
            request = await self._call.run(begin, self._loaded.model, self._call.digest, request)
            cached = 0 if request.prefix is None else len(request.prefix.ids)
            self._cached_tokens += cached
            self._call.serving.metrics.looked_up(self._loaded.name, cached)
        self._begins.append(time.time_ns())
        self._replies.append(self._loaded.service.submit(request))

    async def whole(self, choice: Callable[[GeneratedText], dict[str, Any]]) -> Response:
        """All answers, each as `choice` shows it."""
        groups = await results_of(self._replies)
        self._keep()
        answers = [each for group in groups for each in group]
        choices = [
            {"index": index, "finish_reason": finish_of(answer), **choice(answer)}
            for index, answer in enumerate(answers)
        ]
        return JSONResponse({**self._head, "choices": choices, "usage": self._usage(groups)})

    def pieces(
        self, choice: Callable[[Piece | None], dict[str, Any]], *, first: bool, usage: bool
    ) -> Response:
        """The answers to one request in pieces, each as `choice` shows it; None is the end of one.

        With `first` an empty one of each answer comes before them.
        """
        return self._call.stream(self._events(choice, first=first, usage=usage))

    async def _events(
        self, choice: Callable[[Piece | None], dict[str, Any]], *, first: bool, usage: bool
    ) -> AsyncGenerator[dict[str, Any], None]:
        (reply,) = self._replies

        def event(index: int, piece: Piece | None, finish: str | None = None) -> dict[str, Any]:
            end = {"index": index, "finish_reason": finish}
            return {
                **self._head,
                "choices": [{**end, **choice(piece)}],
                **({"usage": None} if usage else {}),
            }

        if first:
            for index in range(reply.count):
                yield event(index, Piece(index=index, text=""))
        async with contextlib.aclosing(reply.pieces()) as pieces:
            async for piece in pieces:
                if piece.text or piece.logprobs or piece.tool_calls:
                    yield event(piece.index, piece)
                if piece.finish_reason is not None:
                    yield event(piece.index, None, finish_of(piece))
        self._keep()
        took = self._usage([await reply])
        if usage:
            yield {**self._head, "choices": [], "usage": took}

    def _keep(self) -> None:
        """What the answers' caches held is there for the next call."""
        prefixes = self._call.serving.prefixes
        if prefixes is not None:
            for reply in self._replies:
                prefixes.keep(self._loaded.model, self._call.digest, reply.kept)

    def _usage(self, groups: Sequence[Sequence[GeneratedText]]) -> dict[str, Any]:
        answers = [each for group in groups for each in group]
        for begin, group in zip(self._begins, groups, strict=True):
            usage = group[0].usage if group else None
            if usage is not None:
                first = begin + int(usage.first_token_seconds * 1e9)
                self._call.phase("prefill", begin, first)
                self._call.phase("decode", first, begin + int(usage.seconds * 1e9))
        used = count_usage(self._call, self._loaded, self._prompt_tokens, answers)
        return {**used, "prompt_tokens_details": {"cached_tokens": self._cached_tokens}}


def count_usage(
    call: Call, loaded: Loaded, prompt_tokens: int, answers: Sequence[GeneratedText]
) -> dict[str, int]:
    """What a call took, in OpenAI's shape, which the metrics count too."""
    call.serving.metrics.generated(loaded.name, prompt_tokens, answers)
    generated = sum(len(answer.ids) for answer in answers)
    reasons = list(map(finish_of, answers))
    call.request.scope[USED] = (prompt_tokens, generated, reasons)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": prompt_tokens + generated,
    }


def finish_of(answer: GeneratedText | Piece) -> str:
    """Why an answer ended, as OpenAI says it."""
    assert answer.finish_reason is not None
    finish = FINISH[answer.finish_reason]
    return "tool_calls" if answer.tool_calls and finish == "stop" else finish


def token_texts(tokenizer: Tokenizer, part: GeneratedText | Piece) -> list[tuple[str, float]]:
    """Each token's text and log-probability, but for the end's."""
    length = len(part.ids) - (part.finish_reason == "stop")
    pairs = zip(part.ids[:length], part.logprobs or (), strict=False)
    return [(text_of(tokenizer, token), each.logprob) for token, each in pairs]


def text_of(tokenizer: Tokenizer, token: int) -> str:
    """What one token stands for, by itself."""
    return tokenizer.decode([token], skip_special_tokens=False)
