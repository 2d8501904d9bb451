"""`/v1/chat/completions`, in OpenAI's shape."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from seq2edge.runtime.sequences import GeneratedText
from seq2edge.runtime.service import Piece
from seq2edge.runtime.tokenizer import Tokenizer
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


def routes(serving: Serving) -> list[Route]:
    """See the package."""
    return [post(serving, "/v1/chat/completions", chat)]


async def chat(call: Call) -> Response:
    """The answer to a conversation, as `Model.chat` gives it."""
    fields = call.fields
    name = fields.text("model")
    messages = read_messages(fields)
    logprobs = _read_logprobs(fields)
    changes = read_options(fields)
    streaming = Streaming.read(fields)
    fields.end()
    loaded = await call.model(name)
    model = loaded.model
    options = model.options.replace(**changes, logprobs=logprobs)
    kind = "chat.completion.chunk" if streaming.stream else "chat.completion"
    generation = Generation(call, loaded, model=name, name="chatcmpl", kind=kind)
    await generation.submit(lambda: model.chat_request(messages, options))

    def content(part: GeneratedText | Piece) -> dict[str, Any] | None:
        return None if logprobs is None else _logprobs(model.tokenizer, part)

    def delta(piece: Piece | None) -> dict[str, Any]:
        if piece is None:
            return {"delta": {}}
        if not piece.ids and not piece.text:
            return {"delta": {"role": "assistant", "content": ""}}
        return {"delta": {"content": piece.text}, "logprobs": content(piece)}

    def choice(answer: GeneratedText) -> dict[str, Any]:
        return {
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": content(answer),
        }

    if streaming.stream:
        return generation.pieces(delta, first=True, usage=streaming.usage)
    return await generation.whole(choice)


def read_messages(fields: Fields) -> list[dict[str, str]]:
    """The conversation; parts of a message's text are joined."""
    messages = []
    for message in fields.objects("messages", most=MOST_MESSAGES):
        role, content = message.text("role"), _content(message)
        message.end()
        messages.append({"role": role, "content": content})
    return messages


def _content(message: Fields) -> str:
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
