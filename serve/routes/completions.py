"""`/v1/completions`, in OpenAI's shape: of an encoder-decoder the prompt is its source."""

from __future__ import annotations

import collections
import functools
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from seq2edge.runtime.sequences import GeneratedText
from seq2edge.runtime.service import Piece
from seq2edge.runtime.tokenizer import Tokenizer
from seq2edge.serve.calls.call import Call, Serving, post
from seq2edge.serve.routes.generation import (
    MOST_TOP,
    Generation,
    Streaming,
    read_languages,
    read_options,
    text_of,
    token_texts,
)

MOST_PROMPTS = 64


def routes(serving: Serving) -> list[Route]:
    """See the package."""
    return [post(serving, "/v1/completions", completions)]


async def completions(call: Call) -> Response:
    """What follows each prompt, as `Model.generate` gives it."""
    fields = call.fields
    name = fields.text("model")
    prompts = fields.texts("prompt", most=MOST_PROMPTS)
    languages = read_languages(fields)
    logprobs = fields.integer("logprobs", None, least=0, most=MOST_TOP)
    changes = read_options(fields)
    streaming = Streaming.read(fields)
    if streaming.stream and len(prompts) > 1:
        fields.refuse("stream", "a stream is of one prompt")
    fields.end()
    loaded = await call.model(name)
    model = loaded.model
    options = model.options.replace(**changes, logprobs=logprobs)
    generation = Generation(call, loaded, model=name, name="cmpl", kind="text_completion")
    for prompt in prompts:
        make = functools.partial(model.text_request, prompt, options, **languages)
        await generation.submit(make)
    lengths = collections.Counter[int]()  # of each answer's tokens so far

    def content(part: GeneratedText | Piece, begin: int = 0) -> dict[str, Any] | None:
        return None if logprobs is None else _logprobs(model.tokenizer, part, begin)

    def piece(piece: Piece | None) -> dict[str, Any]:
        if piece is None:
            return {"text": "", "logprobs": None}
        told = content(piece, lengths[piece.index])
        lengths[piece.index] += len("".join(told["tokens"])) if told else 0
        return {"text": piece.text, "logprobs": told}

    if streaming.stream:
        return generation.pieces(piece, first=False, usage=streaming.usage)
    return await generation.whole(lambda answer: {"text": answer.text, "logprobs": content(answer)})


def _logprobs(tokenizer: Tokenizer, part: GeneratedText | Piece, begin: int) -> dict[str, Any]:
    pairs = token_texts(tokenizer, part)
    tops = [
        {text_of(tokenizer, token): value for token, value in each.top}
        for each in (part.logprobs or ())[: len(pairs)]
    ]
    ends = [begin + sum(len(text) for text, _ in pairs[:count]) for count in range(len(pairs))]
    return {
        "tokens": [text for text, _ in pairs],
        "token_logprobs": [logprob for _, logprob in pairs],
        "top_logprobs": tops,
        "text_offset": ends,
    }
