"""`/v1/completions` gives what `Model.generate` gives, also of encoder-decoders."""

from __future__ import annotations

import re

import pytest

TEXTS = ["w5 w6 w7", "w8 w9"]


@pytest.mark.parametrize("name", ["translator", "writer"])
@pytest.mark.parametrize("beams", [1, 3])
def test_answers_are_those_of_the_library(served, models, name, beams):
    """For each prompt as many as n says, and what all took together."""
    answer = served.openai().completions.create(
        model=name, prompt=TEXTS, n=beams, max_tokens=6, extra_body={"num_beams": beams}
    )
    model = models[name]
    options = model.options.replace(
        num_beams=beams, num_return_sequences=beams, max_new_tokens=6, max_length=None
    )
    results = [each for group in model.generate(TEXTS, options) for each in group]
    assert [choice.text for choice in answer.choices] == [each.text for each in results]
    assert [choice.index for choice in answer.choices] == list(range(2 * beams))
    assert answer.usage.prompt_tokens == sum(len(model.tokenizer.encode(text)) for text in TEXTS)
    assert answer.usage.completion_tokens == sum(len(each.ids) for each in results)


@pytest.mark.parametrize("name", ["translator", "writer"])
def test_a_stream_is_the_same_text(served, models, name):
    """In pieces, with the end behind them."""
    chunks = list(
        served.openai().completions.create(model=name, prompt=TEXTS[0], max_tokens=6, stream=True)
    )
    model = models[name]
    options = model.options.replace(max_new_tokens=6, max_length=None)
    text = "".join(chunk.choices[0].text for chunk in chunks)
    assert text == model.generate(TEXTS[:1], options)[0][0].text
    assert chunks[-1].choices[0].finish_reason == "length"


def test_log_probabilities_have_the_old_shape(served, models):
    """Four lists of one length, and where each token begins in the text."""
    answer = served.openai().completions.create(
        model="writer", prompt=TEXTS[0], max_tokens=4, logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 4
    pairs = zip(logprobs.top_logprobs, logprobs.tokens, strict=True)
    assert all(token in top for top, token in pairs)
    assert logprobs.text_offset == [0, *(len("".join(logprobs.tokens[:i])) for i in (1, 2, 3))]


def test_a_stream_has_the_old_shape_of_log_probabilities(served):
    """Joined it is that of the whole, of each answer."""
    body = {"model": "translator", "prompt": TEXTS[0], "max_tokens": 6, "logprobs": 2, "n": 2}
    create = served.openai().completions.create
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    joined = [{name: [] for name in names} for _ in range(2)]
    for chunk in create(**body, stream=True, extra_body={"num_beams": 2}):
        (choice,) = chunk.choices
        for name in names if choice.logprobs else ():
            joined[choice.index][name] += getattr(choice.logprobs, name)
    whole = create(**body, extra_body={"num_beams": 2}).choices
    assert joined == [choice.logprobs.model_dump() for choice in whole]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": [[5, 6]]}, "prompt: needs a string, or a list of strings"),
        ({"prompt": ["w5"] * 65}, "prompt: 65 entries, needs 1 to 64"),
        ({"prompt": TEXTS, "stream": True}, "stream: a stream is of one prompt"),
        ({"target_language": "fr"}, "target language 'fr': this model takes none"),
        ({"prompt": "w5 " * 200}, "200|201"),
        ({"echo": True}, "echo: no field"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(served, changes, message):
    """With 400, in one line."""
    body = {"model": "translator", "prompt": "w5", **changes}
    answer = served.post("/v1/completions", body)
    assert answer.status_code == 400
    assert re.search(message, answer.json()["error"]["message"])
