"""`/v1/chat/completions` gives what `Model.chat` gives, to OpenAI's own client."""

from __future__ import annotations

import re

import pytest

SAID = [{"role": "user", "content": "w5 w6 w7"}]
TEXTS = [{"type": "text", "text": text} for text in ("w5 w6", " w7")]
PARTS = [{"role": "user", "content": TEXTS}]


def wanted(models, **changes):
    """The library's answers."""
    model = models["writer"]
    return model.chat(SAID, model.options.replace(max_length=None, **changes))


@pytest.mark.parametrize("messages", [SAID, PARTS])
def test_an_answer_is_that_of_the_library(served, models, messages):
    """With its end and what it took."""
    answer = served.openai().chat.completions.create(
        model="gpt", messages=messages, max_completion_tokens=6
    )
    (result,) = wanted(models, max_new_tokens=6)
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == (result.text, "length")
    assert (answer.model, answer.object) == ("gpt", "chat.completion")
    tokens = (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert tokens == (len(models["writer"].encode_chat(SAID)), 6)


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream_is_the_same_text_in_pieces(served, models, usage):
    """The role first, the end last, and behind it what it took where that is asked for."""
    more = {"stream_options": {"include_usage": True}} if usage else {}
    chunks = list(
        served.openai().chat.completions.create(
            model="writer", messages=SAID, max_tokens=6, stream=True, **more
        )
    )
    (result,) = wanted(models, max_new_tokens=6)
    told = chunks.pop().usage if usage else None
    assert (told.completion_tokens if usage else told) == (6 if usage else None)
    choices = [chunk.choices[0] for chunk in chunks]
    assert choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for choice in choices) == result.text
    assert [choice.finish_reason for choice in choices[-2:]] == [None, "length"]


def test_what_is_drawn_is_what_the_library_draws(served, models):
    """As many as n says, by OpenAI's names and ours."""
    answer = served.openai().chat.completions.create(
        model="writer",
        messages=SAID,
        max_tokens=6,
        n=3,
        temperature=0.7,
        top_p=0.9,
        seed=5,
        frequency_penalty=0.5,
        extra_body={"top_k": 20},
    )
    results = wanted(
        models,
        max_new_tokens=6,
        num_return_sequences=3,
        do_sample=True,
        temperature=0.7,
        top_p=0.9,
        top_k=20,
        seed=5,
        frequency_penalty=0.5,
    )
    assert [each.message.content for each in answer.choices] == [each.text for each in results]


def test_a_temperature_of_zero_takes_the_likeliest(served, models):
    """As OpenAI's clients ask for it, whatever else is said of drawing."""
    answer = served.openai().chat.completions.create(
        model="writer", messages=SAID, max_tokens=6, temperature=0, top_p=0.5, seed=3
    )
    assert answer.choices[0].message.content == wanted(models, max_new_tokens=6)[0].text


def test_log_probabilities_are_those_of_the_library(served, models):
    """Each with the likeliest at its place."""
    answer = served.openai().chat.completions.create(
        model="writer", messages=SAID, max_tokens=4, logprobs=True, top_logprobs=2
    )
    (result,) = wanted(models, max_new_tokens=4, logprobs=2)
    content = answer.choices[0].logprobs.content
    assert [each.logprob for each in content] == [each.logprob for each in result.logprobs]
    assert [len(each.top_logprobs) for each in content] == [2] * 4
    assert content[0].token == models["writer"].tokenizer.decode(result.ids[:1])
    assert bytes(content[0].bytes).decode() == content[0].token


@pytest.mark.parametrize(
    "more",
    [
        {"n": 3, "temperature": 0.9, "seed": 4},
        {"n": 2, "extra_body": {"num_beams": 3}},
        {"stop": ["w5", "w7 w8"]},
    ],
)
def test_answers_come_in_pieces_with_their_log_probabilities(served, more):
    """Several beside each other; each, joined, is what comes whole, and has a role and an end."""
    body = {"model": "writer", "messages": SAID, "max_tokens": 9, "logprobs": True, **more}
    create = served.openai().chat.completions.create
    whole = create(**body, top_logprobs=2).choices
    streamed = {}
    for chunk in create(**body, top_logprobs=2, stream=True):
        (choice,) = chunk.choices
        streamed.setdefault(choice.index, []).append(choice)
    assert sorted(streamed) == list(range(len(whole)))
    joined = []
    for _, choices in sorted(streamed.items()):
        assert [choice.delta.role for choice in choices].count("assistant") == 1
        assert not any(choice.finish_reason for choice in choices[:-1])
        told = [choice.logprobs.content for choice in choices if choice.logprobs]
        content = [each for part in told for each in part]
        text = "".join(choice.delta.content or "" for choice in choices)
        joined.append((text, content, choices[-1].finish_reason))
    answers = [(each.message.content, each.logprobs.content, each.finish_reason) for each in whole]
    if "seed" in more:  # whole ones are sorted
        joined, answers = sorted(joined, key=str), sorted(answers, key=str)
    assert joined == answers


def test_a_stop_string_ends_an_answer(served, models):
    """And is not in it."""
    second = wanted(models, max_new_tokens=6)[0].text.split()[1]
    answer = served.openai().chat.completions.create(
        model="writer", messages=SAID, max_tokens=6, stop=[second]
    )
    assert answer.choices[0].finish_reason == "stop"
    assert second not in answer.choices[0].message.content


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"functions": []}, "functions: no field of this request, known: "),
        ({"messages": [{"role": "user"}]}, r"messages\[0\].content: is needed"),
        ({"messages": [{**SAID[0], "nick": "x"}]}, r"messages\[0\].nick: no field"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            r"messages\[0\].content\[0\].type: 'image_url', needs one of text",
        ),
        ({"max_tokens": 3, "max_completion_tokens": 3}, "means max_new_tokens, which is there too"),
        ({"max_tokens": 0}, "max_new_tokens: 0, needs an integer of at least 1"),
        ({"max_tokens": 1000}, "1,?000"),
        ({"n": 2}, "num_return_sequences: 2 of 1 beams"),
        ({"top_logprobs": 2}, "top_logprobs: needs logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options: needs stream"),
        ({"logit_bias": {"x": 1}}, "logit_bias: needs an object of token ids"),
        ({"response_format": {"type": "xml"}}, "response_format.type: 'xml', needs one of text"),
        ({"top_k": "many"}, "top_k: 'many', needs an integer"),
        ({"num_beams": 100}, "rows: this request needs 100, the scheduler takes 64"),
        ({"model": "embedder"}, "^embedder: made to embed, it cannot generate"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(served, changes, message):
    """Before anything is decoded."""
    body = {"model": "writer", "messages": SAID, **changes}
    answer = served.post("/v1/chat/completions", body)
    assert answer.status_code == 400
    assert re.search(message, answer.json()["error"]["message"])
