"""`/v1/rerank`, `/v1/classify`, `/v1/tag` and `/v1/answer`: what encoder-only models do.

A reader makes fields a question, which asks the library in a thread and returns its results.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from seq2edge.runtime.encoders import Text
from seq2edge.runtime.model import Model
from seq2edge.runtime.tagging import AGGREGATIONS
from seq2edge.serve.calls.call import Call, Serving, post
from seq2edge.serve.calls.fields import Fields
from seq2edge.serve.calls.parts import Check, parts_of, run_in_parts

MOST_TEXTS: Final = 1000  # of a request
LONGEST_CONTEXT: Final = 2**17  # characters in which an answer is looked for
MOST: Final = 2**20  # of what counts tokens or answers

Question: TypeAlias = Callable[[Model, Check], dict[str, Any]]


def routes(serving: Serving) -> list[Route]:
    """See the package."""
    return [
        post(serving, path, functools.partial(answered, read)) for path, read in READERS.items()
    ]


async def answered(read: Callable[[Fields], Question], call: Call) -> Response:
    """The answer to a question."""
    name = call.fields.text("model")
    ask = read(call.fields)
    loaded = await call.model(name)
    results = await run_in_parts(call.serving.threads, functools.partial(ask, loaded.model))
    return JSONResponse({"model": name, **results})


def read_rerank(fields: Fields) -> Question:
    """Cohere's fields, and `instruction`; the results have the best document first."""
    query = fields.text("query")
    documents = _documents(fields)
    best = fields.integer("top_n", None, least=1, most=MOST)
    returned = fields.flag("return_documents", False)
    instruction = fields.text("instruction", None)
    fields.end()

    def ask(model: Model, check: Check) -> dict[str, Any]:
        scores = [
            (-each.score, start + each.index)
            for start, part in parts_of(documents, check)
            for each in model.rerank(query, part, instruction=instruction)
        ]
        results: list[dict[str, Any]] = [
            {"index": index, "relevance_score": -score} for score, index in sorted(scores)[:best]
        ]
        if returned:
            for each in results:
                each["document"] = {"text": documents[each["index"]]}
        return {"results": results}

    return ask


def read_classify(fields: Fields) -> Question:
    """`input`: a text, or a list of texts and of pairs of texts."""
    texts = _inputs(fields)
    fields.end()

    def ask(model: Model, check: Check) -> dict[str, Any]:
        results = [
            dataclasses.asdict(each)
            for _, part in parts_of(texts, check)
            for each in model.classify(part)
        ]
        return {"results": results}

    return ask


def read_tag(fields: Fields) -> Question:
    """`input`: a text or several, of each of which the result is a list of entities."""
    texts = fields.texts("input", most=MOST_TEXTS)
    aggregation = fields.choice("aggregation", AGGREGATIONS, "simple")
    ignored = fields.texts("ignore", ["O"], most=MOST_TEXTS)
    overlap = fields.integer("overlap", None, least=0, most=MOST)
    fields.end()

    def ask(model: Model, check: Check) -> dict[str, Any]:
        results = [
            [dataclasses.asdict(entity) for entity in entities]
            for _, part in parts_of(texts, check)
            for entities in model.tag(
                part, aggregation=aggregation, ignore=ignored, overlap=overlap
            )
        ]
        return {"results": results}

    return ask


def read_answer(fields: Fields) -> Question:
    """`question` and `context`, and the options of `Model.answer`."""
    question, context = fields.text("question"), fields.text("context")
    if len(context) > LONGEST_CONTEXT:
        fields.refuse("context", f"{len(context):,} characters, at most {LONGEST_CONTEXT:,}")
    top_k = fields.integer("top_k", 1, least=1, most=MOST)
    longest = fields.integer("longest", 15, least=1, most=MOST)
    may_be_empty = fields.flag("may_be_empty", False)
    window = fields.integer("window", None, least=1, most=MOST)
    overlap = fields.integer("overlap", None, least=0, most=MOST)
    fields.end()

    def ask(model: Model, check: Check) -> dict[str, Any]:
        check()
        answers = model.answer(
            question,
            context,
            top_k=top_k,
            longest=longest,
            may_be_empty=may_be_empty,
            window=window,
            overlap=overlap,
        )
        return {"answers": [dataclasses.asdict(each) for each in answers]}

    return ask


READERS: Final[dict[str, Callable[[Fields], Question]]] = {
    "/v1/rerank": read_rerank,
    "/v1/classify": read_classify,
    "/v1/tag": read_tag,
    "/v1/answer": read_answer,
}


def _documents(fields: Fields) -> list[str]:
    """Texts, or objects that have one."""
    texts = [
        item["text"] if isinstance(item, dict) and item.keys() == {"text"} else item
        for item in fields.items("documents", most=MOST_TEXTS)
    ]
    if not all(isinstance(text, str) for text in texts):
        fields.refuse("documents", 'needs texts, or objects {"text": ...}')
    return texts


def _inputs(fields: Fields) -> list[Text]:
    value = fields.take("input")
    texts = value if isinstance(value, list) else [value]
    if not 1 <= len(texts) <= MOST_TEXTS:
        fields.refuse("input", f"{len(texts):,} entries, needs 1 to {MOST_TEXTS:,}")
    read = [tuple(text) if isinstance(text, list) else text for text in texts]
    for text in read:
        pair = isinstance(text, tuple) and len(text) == 2
        if not all(isinstance(each, str) for each in (text if pair else (text,))):
            fields.refuse("input", "needs a text, or a list of texts and pairs of texts")
    return read
