"""What is served, and what answers where nothing is."""

from __future__ import annotations

import httpx
import openai
import pytest


def test_models_are_listed_with_their_other_names(served):
    """By OpenAI's client, and one of them alone, with what it can be used for."""
    listed = [model.id for model in served.openai().models.list()]
    assert listed == ["translator", "writer", "embedder", "gpt"]
    gpt = served.openai().models.retrieve("gpt")
    assert (gpt.task, gpt.uses) == ("generate", ["chat", "complete"])


def test_a_model_that_is_not_there_is_not_found(served):
    """The error names those there are."""
    with pytest.raises(openai.NotFoundError, match=r"'gpt-9' is not served, there are: trans") as e:
        served.openai().models.retrieve("gpt-9")
    assert (e.value.code, e.value.param) == ("model_not_found", "model")


def test_it_is_alive_and_ready(served):
    """Without a key or a body."""
    assert httpx.get(served.url + "/health").json() == {"status": "alive"}
    assert httpx.get(served.url + "/ready").json() == {"status": "ready"}


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v2", 404), ("PUT", "/ready", 405)]
)
def test_what_is_no_route_has_an_error_of_the_same_shape(served, method, path, status):
    """Another path, another method."""
    answer = httpx.request(method, served.url + path)
    assert answer.status_code == status
    assert answer.json()["error"]["message"].startswith(f"{method} {path}: ")
