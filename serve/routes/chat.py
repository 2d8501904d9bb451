"""`/v1/chat/completions`, in OpenAI's shape."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from seq2edge.runtime.sequences import GeneratedText
from seq2edge.runtime.service import Piece
from seq2edge.runtime.tokenizer import Tokenizer
from seq2edge.runtime.tools import CHOICES, MOST, ToolCall, Tools
from seq2edge.serve.calls.call import Call, Serving, post
from seq2edge.serve.calls.fields import Fields
from seq2edge.serve.routes.generation import (
    MOST_TOP,
    Generation,
    Streaming,
    read_options,
    text_of,
    token_texts,
)

MOST_MESSAGES = 10_000
MOST_CALLS = MOST  # of tools, in one message


def routes(serving: Serving) -> list[Route]:
    """See the package."""
    return [post(serving, "/v1/chat/completions", chat)]


async def chat(call: Call) -> Response:
    """The answer to a conversation, as `Model.chat` gives it."""
    fields = call.fields
    name = fields.text("model")
    messages, tools = read_messages(fields), read_tools(fields)
    logprobs = _read_logprobs(fields)
    changes = read_options(fields)
    streaming = Streaming.read(fields)
    fields.end()
    loaded = await call.model(name)
    model = loaded.model
    options = model.options.replace(**changes, logprobs=logprobs)
    kind = "chat.completion.chunk" if streaming.stream else "chat.completion"
    generation = Generation(call, loaded, model=name, name="chatcmpl", kind=kind)
    await generation.submit(lambda: model.chat_request(messages, options, tools=tools))

    def content(part: GeneratedText | Piece) -> dict[str, Any] | None:
        return None if logprobs is None else _logprobs(model.tokenizer, part)

    def delta(piece: Piece | None) -> dict[str, Any]:
        if piece is None:
            return {"delta": {}}
        calls = [{"index": i, **record} for i, record in enumerate(_calls(piece.tool_calls))]
        if not (piece.ids or piece.text or calls):
            return {"delta": {"role": "assistant", "content": ""}}
        said = {"content": piece.text} if piece.text or not calls else {}
        return {
            "delta": {**said, **({"tool_calls": calls} if calls else {})},
            "logprobs": content(piece),
        }

    def choice(answer: GeneratedText) -> dict[str, Any]:
        calls = _calls(answer.tool_calls)
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        if calls:
            message |= {"content": answer.text or None, "tool_calls": calls}
        return {"message": message, "logprobs": content(answer)}

    if streaming.stream:
        return generation.pieces(delta, first=True, usage=streaming.usage)
    return await generation.whole(choice)


def read_messages(fields: Fields) -> list[dict[str, Any]]:
    """The conversation; parts of a message's text are joined."""
    messages = []
    for message in fields.objects("messages", most=MOST_MESSAGES):
        role = message.text("role")
        calls = message.objects("tool_calls", None, most=MOST_CALLS)
        record: dict[str, Any] = {"role": role, "content": _content(message, needed=not calls)}
        record |= {name: message.text(name) for name in ("name", "tool_call_id") if name in message}
        if calls:
            record["tool_calls"] = list(map(_read_call, calls))
        message.end()
        messages.append(record)
    return messages


def _read_call(call: Fields) -> dict[str, Any]:
    """A call of a tool that an answer had."""
    function = call.inner("function")
    call.choice("type", ("function",), "function")
    told = {"name": function.text("name"), "arguments": function.text("arguments")}
    record = {"id": call.text("id"), "type": "function", "function": told}
    function.end()
    call.end()
    return record


def read_tools(fields: Fields) -> Tools | None:
    """Those that an answer may call."""
    definitions = fields.take("tools", None)
    if not definitions:
        for name in ("tool_choice", "parallel_tool_calls"):
            if name in fields:
                fields.refuse(name, "needs tools")
        return None
    if not isinstance(definitions, list):
        fields.refuse("tools", f"{definitions!r:.60}, needs a list")
    choice = "auto"
    if fields.holds("tool_choice", Mapping):
        chosen = fields.inner("tool_choice")
        chosen.choice("type", ("function",))
        function = chosen.inner("function")
        choice = function.text("name")
        function.end()
        chosen.end()
        if choice in CHOICES:
            fields.refuse("tool_choice", f"{choice!r} is no function of tools")
    else:
        choice = fields.choice("tool_choice", CHOICES, "auto")
    return Tools(definitions, choice, fields.flag("parallel_tool_calls", True))


def _calls(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Those of an answer; their arguments are JSON in a text."""
    records = [call.record for call in calls]
    for record, call in zip(records, calls, strict=True):
        record["function"]["arguments"] = json.dumps(call.arguments, ensure_ascii=False)
    return records


def _content(message: Fields, *, needed: bool) -> str:
    if not needed and "content" not in message:
        return ""
    if not message.holds("content", list):
        return str(message.text("content"))
    texts = []
    for part in message.objects("content", most=MOST_MESSAGES):
        part.choice("type", ("text",))
        texts.append(part.text("text"))
        part.end()
    return "".join(texts)


def _read_logprobs(fields: Fields) -> int | None:
    wants = fields.flag("logprobs", False)
    top = fields.integer("top_logprobs", None, least=0, most=MOST_TOP)
    if top is not None and not wants:
        fields.refuse("top_logprobs", "needs logprobs")
    return (top or 0) if wants else None


def _logprobs(tokenizer: Tokenizer, part: GeneratedText | Piece) -> dict[str, Any]:
    def record(text: str, logprob: float) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    content = []
    for (text, logprob), each in zip(
        token_texts(tokenizer, part), part.logprobs or (), strict=False
    ):
        top = [record(text_of(tokenizer, token), value) for token, value in each.top]
        content.append({**record(text, logprob), "top_logprobs": top})
    return {"content": content, "refusal": None}
