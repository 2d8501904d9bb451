"""`/v1/translate`: texts through an encoder-decoder, decoded beside whatever others ask of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from seq2edge.errors import InputError
from seq2edge.runtime.sequences import GeneratedText
from seq2edge.runtime.service import results_of
from seq2edge.serve.calls.call import Call, Serving, post
from seq2edge.serve.routes.generation import count_usage, read_languages, read_options

MOST_TEXTS = 64


def routes(serving: Serving) -> list[Route]:
    """See the package."""
    return [post(serving, "/v1/translate", translate)]


async def translate(call: Call) -> Response:
    """`text`, one or several, as `Model.generate` translates it."""
    fields = call.fields
    name = fields.text("model")
    texts = fields.texts("text", most=MOST_TEXTS)
    languages = read_languages(fields)
    changes = read_options(fields)
    fields.end()
    loaded = await call.model(name)
    model = loaded.model
    if model.dims.kind == "decoder":
        raise InputError(f"model: {name} continues texts, it cannot translate them; complete them")
    options = model.options.replace(**changes)
    requests = [await call.run(model.text_request, text, options, **languages) for text in texts]
    answers = await results_of([loaded.service.submit(request) for request in requests])
    read = sum(request.source_length for request in requests)
    usage = count_usage(call, loaded, read, [each for group in answers for each in group])
    return JSONResponse(
        {
            "model": name,
            "translations": [_translation(group) for group in answers],
            "usage": usage,
        }
    )


def _translation(answers: Sequence[GeneratedText]) -> dict[str, Any]:
    """The best one, and the others where more were asked for."""
    best, *others = ({"text": answer.text, "score": answer.score} for answer in answers)
    return {**best, "alternatives": others} if others else best
