"""`tools` of chats, as OpenAI's client asks for them and reads what comes."""

from __future__ import annotations

import json

import calling
import jsonschema
import pytest
import serving
from calling import ASKED, CLOCK, TOOLS
from openai import BadRequestError

from seq2edge.runtime.tools import Tools

UNTOLD = {"role": "assistant", "tool_calls": [{"id": "x"}]}
CALL = '<tool_call>\n{"name": "'


@pytest.fixture(scope="module")
def model(made_once):
    """The model that is served."""
    return serving.load(made_once(calling.calling_bundle))


@pytest.fixture(scope="module")
def caller(made_once):
    """A server of it."""
    with serving.serve({"caller": made_once(calling.calling_bundle)}) as server:
        yield server


def pushed(model, text):
    """Fields of a request to a model that would rather write this text."""
    options = calling.pushed(model, text)
    return {"sequence_bias": [[list(ids), bias] for ids, bias in options.sequence_bias]}


def ask(caller, model, text, **more):
    """The answer to it."""
    body = {"model": "caller", "messages": ASKED, "tools": TOOLS, "max_tokens": 400, **more}
    return caller.openai().chat.completions.create(**body, extra_body=pushed(model, text))


def test_an_answer_calls_a_tool(caller, model):
    """Its arguments are JSON that follows the schema; what it says before is its content."""
    for said in ("", "Let me see."):
        answer = ask(caller, model, said + CALL + "weather", parallel_tool_calls=False)
        (choice,) = answer.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == (said or None)
        (call,) = choice.message.tool_calls
        assert (call.type, call.function.name) == ("function", "weather")
        arguments = json.loads(call.function.arguments)
        jsonschema.validate(arguments, Tools(TOOLS).callable["weather"])


def test_what_a_tool_gives_goes_back(caller, model):
    """The client's own records of a call are read again, and the answer is the library's."""
    asked = ask(caller, model, CALL + "clock.now", tools=[CLOCK], parallel_tool_calls=False)
    message = asked.choices[0].message
    given = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "noon"}
    chat = [*ASKED, message.model_dump(), given]
    answer = ask(caller, model, "Noon.<|end|>", messages=chat, tools=[CLOCK])
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Noon.", "stop")
    assert answer.choices[0].message.tool_calls is None
    plain = [
        *ASKED,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "x", "type": "function", "function": {"name": "clock.now", "arguments": {}}}
            ],
        },
        given,
    ]
    assert answer.usage.prompt_tokens == len(model.encode_chat(plain, Tools([CLOCK])))
    body = {"model": "caller", "messages": chat, "tools": [CLOCK]}
    told = caller.post("/tokenize", body)
    assert told.json()["count"] == answer.usage.prompt_tokens


def test_a_stream_brings_calls_behind_the_text(caller, model):
    """Whole, in their order, before the end says so."""
    said, name, arguments, finish = "", {}, {}, None
    text = "Let me see." + CALL + "weather"
    for chunk in ask(caller, model, text, stream=True, parallel_tool_calls=False):
        (choice,) = chunk.choices
        said += choice.delta.content or ""
        for call in choice.delta.tool_calls or ():
            name[call.index] = call.function.name
            arguments[call.index] = arguments.get(call.index, "") + call.function.arguments
        finish = choice.finish_reason or finish
    assert (said, name, finish) == ("Let me see.", {0: "weather"}, "tool_calls")
    whole = ask(caller, model, text, parallel_tool_calls=False).choices[0].message
    assert arguments == {0: whole.tool_calls[0].function.arguments}


def test_a_call_that_the_limit_cuts_is_none(caller, model):
    """Those before it are there, and the end says that there was more."""
    text = f'{CALL}clock.now", "arguments": {{}}}}\n</tool_call>\n{CALL}weather'
    (choice,) = ask(caller, model, text, max_tokens=60).choices
    assert choice.finish_reason == "length"
    assert [call.function.name for call in choice.message.tool_calls] == ["clock.now"]


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"weather", "clock.now"}),
        ({"type": "function", "function": {"name": "clock.now"}}, {"clock.now"}),
        ("none", set()),
    ],
)
def test_a_choice_is_kept_to(caller, model, choice, names):
    """Whatever the model would write; without one it may say something alone."""
    answer = ask(
        caller, model, "No.<|end|>", tool_choice=choice, parallel_tool_calls=False
    ).choices[0]
    calls = answer.message.tool_calls or []
    assert {call.function.name for call in calls} <= names
    assert bool(calls) == bool(names)
    assert answer.message.content == (None if names else "No.")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": []}, None),
        ({"tools": {"a": 1}}, "tools"),
        ({"tools": [{"type": "function"}]}, None),
        ({"tools": None, "tool_choice": "auto"}, "tool_choice"),
        ({"tools": [], "parallel_tool_calls": True}, "parallel_tool_calls"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "none"}}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, None),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"response_format": {"type": "json_object"}}, None),
        ({"messages": [UNTOLD]}, "messages[0].tool_calls[0].function"),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
    ],
)
def test_what_means_nothing_is_refused(caller, more, param):
    """With the field's name; no tools at all are none."""
    body = {"model": "caller", "messages": ASKED, "tools": TOOLS, "max_tokens": 2, **more}
    answer = caller.post("/v1/chat/completions", body)
    if more == {"tools": []}:
        assert answer.status_code == 200
        return
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_model_without_tools_says_so(served):
    """Its chat template knows none."""
    with pytest.raises(BadRequestError, match="tools: its chat template has no place for them"):
        served.openai().chat.completions.create(model="writer", messages=ASKED, tools=TOOLS)
