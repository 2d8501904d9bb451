"""`chat`: what it says to every line that is typed."""

from __future__ import annotations

import pytest
from command_line import call

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
