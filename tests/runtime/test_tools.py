"""Definitions of tools are checked when they are given, and calls are what messages hold."""

from __future__ import annotations

import json

import calling
import pytest
from calling import ASKED, CLOCK, TOOLS, WEATHER

import seq2edge
from seq2edge.errors import InputError, OptionError
from seq2edge.runtime.templates import ChatTemplate
from seq2edge.runtime.tools import ToolCall, Tools


def named(name):
    """A function of that name."""
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    ("definitions", "message"),
    [
        ([], r"tools: 0 of them, needs 1 to 128"),
        ([named(f"f{i}") for i in range(129)], r"tools: 129 of them"),
        (3, "tools: needs a list of JSON objects"),
        ([{"type": "function", "function": {"name": {1, 2}}}], "needs a list of JSON objects"),
        ([{**CLOCK, "score": float("nan")}], "needs a list of JSON objects"),
        (["clock"], r"tools\[0\]: 'clock', needs an object of the type 'function'"),
        ([CLOCK, {"type": "retrieval"}], r"tools\[1\]: .* needs an object of the type"),
        ([{"type": "function"}], r"tools\[0\]\.function: None, needs an object"),
        ([named("")], r"tools\[0\]\.function\.name: '', needs 1 to 64"),
        ([named("a b")], r"tools\[0\]\.function\.name: 'a b'"),
        ([named("x" * 65)], "function.name"),
        ([named("required")], "and not auto, none, required"),
        ([CLOCK, WEATHER, CLOCK], r"tools\[2\]\.function\.name: 'clock.now' is that of another"),
        (
            [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}],
            r"tools\[0\]\.function\.parameters: .* needs an object's schema",
        ),
    ],
)
def test_what_is_no_definition_is_refused(definitions, message):
    """With its place."""
    with pytest.raises(OptionError, match=message):
        Tools(definitions)


def test_a_choice_is_a_word_or_a_tool():
    """By its name."""
    assert list(Tools(TOOLS).callable) == ["weather", "clock.now"]
    assert list(Tools(TOOLS, "clock.now").callable) == ["clock.now"]
    with pytest.raises(OptionError, match="tool_choice: 'clock', needs one of auto, none, requ"):
        Tools(TOOLS, "clock")
    with pytest.raises(OptionError, match="parallel: 1, needs True or False"):
        Tools(TOOLS, parallel=1)


def test_arguments_that_are_not_named_are_none():
    """Unless the schema says more of them."""
    free = {"type": "object", "additionalProperties": {"type": "integer"}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": free}}, CLOCK]
    schemas = Tools(tools).callable
    assert schemas["f"]["additionalProperties"] == {"type": "integer"}
    assert schemas["clock.now"] == {
        "type": "object",
        "properties": {},
        "additionalProperties": False,
    }


def test_what_is_changed_later_changes_nothing():
    """Definitions are copies."""
    mine = json.loads(json.dumps(TOOLS))
    tools = Tools(mine)
    mine[0]["function"]["name"] = "other"
    assert tools.names == ("weather", "clock.now")


def test_calls_have_ids_of_their_own():
    """Nine letters and digits, which do not count."""
    one, other = (ToolCall(name="f", arguments={"a": 1}) for _ in range(2))
    assert one == other
    assert one.id != other.id
    assert len(one.id) == 9
    assert one.id.isalnum()


@pytest.fixture(scope="module")
def model(made_once):
    """One that chats in bytes."""
    return seq2edge.load(made_once(calling.calling_bundle), device="cpu", threads=1)


def test_a_conversation_goes_on_behind_a_call(model):
    """The answer's message and what the tool gave stand in the next prompt."""
    options = calling.pushed(model, '<tool_call>\n{"name": "clock.now')
    (answer,) = model.chat(ASKED, options, tools=Tools([CLOCK]))
    (call,) = answer.tool_calls
    given = {"role": "tool", "tool_call_id": call.id, "content": "noon"}
    chat = [*ASKED, answer.message, given]
    text = model.tokenizer.render_chat(chat, tools=[CLOCK])
    assert text.endswith(
        '<|user|>Rain?<|end|>\n<|assistant|><tool_call>\n{"name": "clock.now", "arguments": {}}\n'
        "</tool_call><|end|>\n<|tool|>noon<|end|>\n<|assistant|>"
    )
    as_text = json.loads(json.dumps(answer.message))
    as_text["content"] = None
    as_text["tool_calls"][0]["function"]["arguments"] = "{}"
    assert model.tokenizer.render_chat([*ASKED, as_text, given], tools=[CLOCK]) == text
    without = {**answer.message, "tool_calls": []}
    assert model.tokenizer.render_chat([*ASKED, without]).endswith(
        "<|assistant|><|end|>\n<|assistant|>"
    )


@pytest.mark.parametrize("calls", [[], None])
def test_no_calls_are_not_there(tmp_path, calls):
    """Published templates ask whether a message has some by its keys."""
    (tmp_path / "chat.jinja").write_text("{{ 'tool_calls' in messages[0] }}")
    message = {"role": "assistant", "content": "a", "tool_calls": calls}
    assert ChatTemplate(tmp_path / "chat.jinja").render([message]) == "False"


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        (
            [{"function": {"name": "f", "arguments": "[1]"}}],
            r"arguments of call 0: \[1\] is no obj",
        ),
        ([{"function": {"name": "f", "arguments": "{"}}], "arguments of call 0: '{' is no object"),
        ([{"function": {"name": "f"}}], "arguments of call 0: None is no object"),
        ([{"name": "f", "arguments": {}}, {}], "message 1: call 1 of a tool needs a function's"),
        (["f"], "call 0 of a tool needs a function's name"),
        ("f", "call 0 of a tool needs a function's name"),
    ],
)
def test_calls_of_messages_are_checked(model, calls, message):
    """Before a template sees them."""
    said = {"role": "assistant", "content": None, "tool_calls": calls}
    with pytest.raises(InputError, match=message):
        model.encode_chat([*ASKED, said])


def test_without_a_choice_nothing_is_told(model):
    """Neither the model nor the rules know of tools."""
    assert model.encode_chat(ASKED, Tools(TOOLS, "none")) == model.encode_chat(ASKED)
    assert len(model.encode_chat(ASKED, Tools(TOOLS))) > len(model.encode_chat(ASKED))
    options = calling.pushed(model, "<tool_call>\n{}<|end|>")
    (answer,) = model.chat(ASKED, options, tools=Tools(TOOLS, "none"))
    assert (answer.text, answer.tool_calls) == ("<tool_call>\n{}", ())


def test_rules_of_ones_own_go_with_no_tools(model):
    """It is not said which of them would hold."""
    options = model.options.replace(regex="a")
    with pytest.raises(OptionError, match="regex: an answer that may call tools has rules of its"):
        model.chat(ASKED, options, tools=Tools(TOOLS))


def test_a_schema_that_means_nothing_is_refused(model):
    """By the library that keeps to it, in one line."""
    function = {"name": "f", "parameters": {"properties": {"a": {"type": "colour"}}}}
    tools = Tools([{"type": "function", "function": function}])
    with pytest.raises(OptionError, match=r"tools: .*colour"):
        model.chat_request(ASKED, tools=tools)


def test_a_template_without_tools_is_refused(speaking):
    """Whatever its model knows."""
    told = "{% for m in messages %}{{ m.content }} {% endfor %}w4"
    plain = seq2edge.load(speaking("llama", template=told), device="cpu", threads=1)
    with pytest.raises(InputError, match="tools: its chat template has no place for them"):
        plain.chat([{"role": "user", "content": "w5"}], tools=Tools(TOOLS))


def test_several_chats_call_at_a_time(model):
    """Each its own tools."""
    options = calling.pushed(model, '<tool_call>\n{"name": "weather')
    answers = list(model.chat_each([ASKED, ASKED], options, tools=Tools(TOOLS, parallel=False)))
    assert [[call.name for call in answer.tool_calls] for (answer,) in answers] == [["weather"]] * 2


def test_a_reply_gives_the_same_calls_whenever_it_is_asked(model):
    """What a tool gives refers to an id, so that another look may not change it."""
    options = calling.pushed(model, '<tool_call>\n{"name": "clock.now')
    with seq2edge.Service(model) as service:
        reply = service.chat(ASKED, options, tools=Tools([CLOCK], parallel=False))
        (call,) = reply.result.tool_calls
        assert reply.results()[0].tool_calls[0].id == call.id


def test_a_session_goes_on_with_what_tools_give(model):
    """Whose results are for its calls, by their ids."""
    options = calling.pushed(model, '<tool_call>\n{"name": "clock.now')
    session = model.session(options, tools=Tools([CLOCK], parallel=False))
    answer = session.chat("When?")
    (call,) = answer.tool_calls
    for results in ({}, {"other": "noon"}, {call.id: "noon", "other": "one"}):
        with pytest.raises(InputError, match=rf"session: {len(results)} results for 1 calls"):
            session.stream_after(results)
    stream = session.stream_after({call.id: "noon"}, calling.pushed(model, "Noon.<|end|>"))
    assert stream.result.text == "Noon."
    assert [message["role"] for message in session.messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert session.reused > 0
    with pytest.raises(InputError, match="session: 1 results for 0 calls of tools"):
        session.stream_after({call.id: "noon"})
    session.undo()
    assert session.messages == []
