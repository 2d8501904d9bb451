"""`/tokenize` and `/detokenize`: texts as a model's ids, and back."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from seq2edge.serve.calls.call import Call, Serving, post
from seq2edge.serve.routes.chat import read_messages, read_tools

MOST_TOKENS = 1_000_000


def routes(serving: Serving) -> list[Route]:
    """See the package."""
    return [post(serving, "/tokenize", tokenize), post(serving, "/detokenize", detokenize)]


async def tokenize(call: Call) -> Response:
    """The ids that a model reads of a `prompt`, or of `messages` up to where it answers."""
    fields = call.fields
    name = fields.text("model")
    if "messages" in fields:
        messages, tools = read_messages(fields), read_tools(fields)
        fields.end()
        model = (await call.model(name)).model
        ids = await call.run(model.encode_chat, messages, tools)
    else:
        prompt = fields.text("prompt")
        special = fields.flag("add_special_tokens", True)
        fields.end()
        model = (await call.model(name)).model
        ids = await call.run(model.tokenizer.encode, prompt, special_tokens=special)
    return JSONResponse({"tokens": ids, "count": len(ids)})


async def detokenize(call: Call) -> Response:
    """The text of ids that a model generated."""
    fields = call.fields
    name = fields.text("model")
    ids = fields.items("tokens", most=MOST_TOKENS)
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        fields.refuse("tokens", "needs token ids")
    fields.end()
    model = (await call.model(name)).model
    return JSONResponse({"prompt": await call.run(model.tokenizer.decode, ids)})
