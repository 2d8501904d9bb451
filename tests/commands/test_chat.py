"""`chat`: what it says to every line that is typed."""

from __future__ import annotations

import importlib
import json

import calling
import pytest
from command_line import call

import seq2edge

commands = importlib.import_module("seq2edge.commands.chat")  # whose name is also its command's
TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}w4"


@pytest.fixture
def bundle(speaking):
    """A small Llama that can chat."""
    return str(speaking("llama", template=TEMPLATE, max_position_embeddings=256))


def test_turns_are_answered_until_the_end(bundle):
    """A turn that is taken back counts for nothing; an unknown word of command is explained."""
    options = ("--max-new-tokens", 4, "--system", "w9")
    lines = "w5 w6\nw7\n/undo\nw8\n/what\n/reset\nw5 w6\n/quit\nw10\n"
    result = call("chat", bundle, *options, input=lines)
    assert result.exit_code == 0, result.stderr
    answers = [line.removeprefix("> ") for line in result.stdout.splitlines()]
    answers = [answer.strip("> ") for answer in answers if answer.strip("> ")]
    assert len(answers) == 4
    assert answers[0] == answers[3]
    without = call("chat", bundle, *options, input="w5 w6\nw8\n").stdout
    assert answers[2] in without
    assert result.stderr.count("/undo the last turn") == 2
    assert result.stderr.count("ended at the limit of tokens") == 4


def test_what_cannot_be_answered_is_no_turn(bundle):
    """A conversation longer than the model says so, and goes on without it."""
    long = " ".join(["w5"] * 300)
    result = call("chat", bundle, "--max-new-tokens", 4, input=f"{long}\nw5\n")
    assert result.exit_code == 0, result.stderr
    assert "301 tokens, the model has 256 positions; /reset begins anew" in result.stderr
    answer = call("chat", bundle, "--max-new-tokens", 4, input="w5\n").stdout
    assert answer.strip("> \n") in result.stdout
    assert "w" in answer


def test_what_a_tool_gives_is_typed_in(made_once, tmp_path, monkeypatch):
    """The call is shown, and the model goes on with what it gave; at the end of input it ends."""
    bundle = made_once(calling.calling_bundle)
    model = seq2edge.load(bundle, device="cpu", threads=1)
    model.options = calling.pushed(model, '<tool_call>\n{"name": "clock.now')
    monkeypatch.setattr(commands, "load_model", lambda *_, **__: model)
    chats, render = [], model.tokenizer.render_chat

    def watched(messages, **names):
        chats.append(list(messages))
        return render(messages, **names)

    monkeypatch.setattr(model.tokenizer, "render_chat", watched)
    (tmp_path / "tools.json").write_text(json.dumps([calling.CLOCK]))
    result = call("chat", bundle, "--tools", tmp_path / "tools.json", input="When?\nnoon\n")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("clock.now {}\n") == 2
    assert result.stdout.count("clock.now> ") == 2
    assert [message["role"] for message in chats[-1]] == ["user", "assistant", "tool"]
    assert chats[-1][-1]["content"] == "noon"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "tools.json: not valid JSON"),
        (b"{}", "tools.json: needs a list of tools"),
        (b"[]", "tools: 0 of them, needs 1 to 128"),
        (b"[" + b" " * 2**20 + b"]", "tools.json: more than 1,048,576 bytes"),
        (None, "tools.json: No such file"),
    ],
)
def test_a_file_of_no_tools_is_one_line(bundle, tmp_path, data, message):
    """Before the model is loaded."""
    if data is not None:
        (tmp_path / "tools.json").write_bytes(data)
    result = call("chat", bundle, "--tools", tmp_path / "tools.json", input="w5\n")
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_translator_cannot_chat(speaking):
    """One line says so."""
    result = call("chat", str(speaking("bart")))
    assert result.exit_code == 1
    assert "kind encoder-decoder cannot chat" in result.stderr


def test_input_that_is_no_text_is_one_line(bundle, monkeypatch):
    """Whatever a pipe holds."""

    def broken(_):
        return b"\xff".decode()

    monkeypatch.setattr("builtins.input", broken)
    result = call("chat", bundle)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "Error: standard input: no UTF-8 from byte 1 on"
