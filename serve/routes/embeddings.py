"""`/v1/embeddings`, in OpenAI's shape."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from seq2edge.serve.calls.call import Call, Serving, post
from seq2edge.serve.calls.parts import Check, parts_of, run_in_parts

MOST_TEXTS = 2048  # of one call, as OpenAI takes


def routes(serving: Serving) -> list[Route]:
    """See the package."""
    return [post(serving, "/v1/embeddings", embeddings)]


async def embeddings(call: Call) -> Response:
    """Vectors of texts; `prompt` names one of the checkpoint's prompts, as `Model.embed` takes."""
    fields = call.fields
    name = fields.text("model")
    texts = fields.texts("input", most=MOST_TEXTS)
    form = fields.choice("encoding_format", ("float", "base64"), "float")
    dimensions = fields.integer("dimensions", None, least=1, most=2**20)
    prompt = fields.text("prompt", None)
    fields.end()
    loaded = await call.model(name)

    def work(check: Check) -> tuple[NDArray[np.float32], int]:
        vectors = [
            loaded.model.embed(part, prompt=prompt, dimensions=dimensions)
            for _, part in parts_of(texts, check)
        ]
        tokens = sum(len(loaded.model.tokenizer.encode(text)) for text in texts)
        return np.concatenate(vectors), tokens

    vectors, tokens = await run_in_parts(call.serving.threads, work)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": vector.tolist() if form == "float" else _base64(vector),
        }
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "model": name, "data": data, "usage": usage})


def _base64(vector: NDArray[np.float32]) -> str:
    """Its values as little-endian floats of 32 bits."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
