"""`/v1/embeddings` gives what `Model.embed` gives."""

from __future__ import annotations

import numpy as np
import pytest

TEXTS = ["w5 w6 w7", "w8"]


@pytest.mark.parametrize("form", [None, "float"])
def test_vectors_are_those_of_the_library(served, models, form):
    """In base64, which the client asks for by itself, and as numbers."""
    options = {} if form is None else {"encoding_format": form}
    answer = served.openai().embeddings.create(model="embedder", input=TEXTS, **options)
    vectors = np.array([each.embedding for each in answer.data], dtype=np.float32)
    np.testing.assert_array_equal(vectors, models["embedder"].embed(TEXTS))
    assert answer.usage.prompt_tokens == 6


@pytest.mark.parametrize(
    ("change", "message", "param"),
    [
        ({"input": 5}, "input: 5, needs a list", "input"),
        ({"input": []}, "input: 0 entries, needs 1 to 2,048", "input"),
        ({"model": None}, "model: is needed", "model"),
        ({"user": "x"}, "user: no field of this request, known: dimensions, ", "user"),
        ({"dimensions": 0}, "dimensions: 0, needs an integer from 1", "dimensions"),
        ({"model": "writer"}, "made to generate, it cannot embed", None),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(served, change, message, param):
    """With 400, in one line."""
    answer = served.post("/v1/embeddings", {"model": "embedder", "input": "w5", **change})
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert message in error["message"]
    assert error["param"] == param
