"""How templates write calls is found, and answers that follow it are read."""

from __future__ import annotations

import json

import calling
import jsonschema
import pytest
import tool_templates
from calling import ASKED, TOOLS

import seq2edge
from seq2edge.errors import InputError
from seq2edge.runtime.templates import ChatTemplate
from seq2edge.runtime.tool_format import find_format
from seq2edge.runtime.tools import ToolCall, Tools

SEVERAL = [form for form in tool_templates.FORMS if form != "object"]
ODD = [
    {},
    {"town": 'Saint-"Denis"', "nested": [{"a": None}, [], "}\n</tool_call>"]},
    {"text": "\n </function> \\ <|done|> }]", "number": -1.5e-7, "truth": True},
]


def renderer(text, folder):
    """What writes chats by a template."""
    (folder / "chat.jinja").write_text(text, encoding="utf-8")
    template = ChatTemplate(folder / "chat.jinja")

    def render(messages, *, add_generation_prompt=True, tools=None):
        return template.render(messages, tools=tools, add_generation_prompt=add_generation_prompt)

    return render


@pytest.mark.parametrize("form", tool_templates.FORMS)
def test_what_a_template_writes_is_read(tmp_path, form):
    """One call or several, with arguments of all kinds."""
    render = renderer(tool_templates.FORMS[form], tmp_path)
    found = find_format(render, [tool_templates.END])
    assert (found.between is not None) == (form in SEVERAL)
    assert tool_templates.END not in "".join(found.texts)
    for count in (1, 2, 3) if form in SEVERAL else (1,):
        calls = [
            ToolCall(name=name, arguments=arguments)
            for name, arguments in zip(["f", "f.g", "h"], ODD, strict=True)
        ][:count]
        records = [call.record for call in calls]
        said = {"role": "assistant", "content": "Well", "tool_calls": records}
        text = render([*ASKED, said], tools=TOOLS)
        for call in calls:  # which an answer does not have
            text = text.replace(f', "id": "{call.id}"', "")
        assert found.read(text, ["f", "f.g", "h"]) == calls
        assert found.read(text.replace("\n", " "), ["f", "f.g", "h"]) == calls


@pytest.mark.parametrize("form", tool_templates.UNREAD)
def test_other_forms_are_refused(tmp_path, form):
    """Before anything is decoded."""
    text, message = tool_templates.UNREAD[form]
    with pytest.raises(InputError, match=message):
        find_format(renderer(text, tmp_path), [tool_templates.END])


@pytest.mark.parametrize("cut", [1, 20, 40])
def test_a_call_that_is_not_whole_is_none(tmp_path, cut):
    """Those before it are."""
    found = find_format(renderer(tool_templates.FORMS["tags"], tmp_path), [tool_templates.END])
    one = '<tool_call>\n{"name": "f", "arguments": {"a": [1]}}\n</tool_call>'
    assert found.read(f"{one}\n{one[:cut]}", ["f"]) == [ToolCall(name="f", arguments={"a": [1]})]
    assert found.read(one[:cut], ["f"]) == []
    assert found.read(one, ["g"]) == []
    assert found.read(one.replace('{"a": [1]}', "[1]"), ["f"]) == []


@pytest.fixture(scope="module")
def model(made_once):
    """One that chats in bytes."""
    return seq2edge.load(made_once(calling.calling_bundle), device="cpu", threads=1)


def check(calls, names=("weather", "clock.now")):
    """Calls of these tools whose arguments follow their schemas."""
    for call in calls:
        assert call.name in names
        schema = Tools(TOOLS).callable[call.name]
        jsonschema.validate(call.arguments, schema)
        assert json.dumps(call.arguments)


@pytest.mark.parametrize("form", tool_templates.FORMS)
def test_a_model_calls_what_it_must(model, tmp_path, form):
    """Whatever it would say: each call can be read, and is of a tool that may be called."""
    close, end = model.tokenizer.encode("]" + tool_templates.END, special_tokens=False)
    options = model.options.replace(
        do_sample=True,
        max_new_tokens=600,
        max_length=None,
        num_return_sequences=3,
        sequence_bias=[([close], 5.0), ([end], 2.0)],  # or calls may go on beyond the limit
    )
    with calling.written_as(model, form, tmp_path):
        counts = set()
        for seed in range(3):
            changes = options.replace(seed=seed)
            for answer in model.chat(ASKED, changes, tools=Tools(TOOLS, "required")):
                assert (answer.text, answer.finish_reason) == ("", "stop")
                check(answer.tool_calls)
                counts.add(len(answer.tool_calls))
            for answer in model.chat(ASKED, changes, tools=Tools(TOOLS, "weather")):
                check(answer.tool_calls, ["weather"])
                assert len(answer.tool_calls) == 1
            for answer in model.chat(
                ASKED, changes, tools=Tools(TOOLS, "required", parallel=False)
            ):
                check(answer.tool_calls)
                assert len(answer.tool_calls) == 1
    assert 0 not in counts
    assert (max(counts) > 1) == (form in SEVERAL)


@pytest.mark.parametrize("form", tool_templates.FORMS)
def test_a_model_says_something_calls_or_does_both(model, tmp_path, form):
    """What it says is the text, also piece by piece; the rest are calls."""
    tools = Tools(TOOLS, parallel=False)
    with calling.written_as(model, form, tmp_path):
        begin = find_format(model.tokenizer.render_chat, [tool_templates.END]).begin
        for said in ("", "Let me see. "):
            options = calling.pushed(model, said + begin)
            (answer,) = model.chat(ASKED, options, tools=tools)
            assert answer.text == said
            assert answer.finish_reason == "stop"
            assert answer.tool_calls
            check(answer.tool_calls)
            stream = model.stream_chat(ASKED, options, tools=tools)
            assert "".join(stream) == said
            assert stream.result.tool_calls == answer.tool_calls
        options = calling.pushed(model, "No." + tool_templates.END)
        (answer,) = model.chat(ASKED, options, tools=tools)
        assert (answer.text, answer.tool_calls) == ("No.", ())
        assert answer.message == {"role": "assistant", "content": "No."}
