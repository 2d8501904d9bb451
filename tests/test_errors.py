"""Errors: one line each, whatever strangers wrote into it, and whatever a library raised."""

from __future__ import annotations

import pytest

from seq2edge.errors import LONGEST, BundleError, InputError, Seq2EdgeError, foreign_errors


class PanicException(BaseException):
    """What a library in Rust raises where it gives up, by its name."""


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("a: b\n  c\r\nd\n", "a: b c d"),
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("a\x9b2Jb\x85c\x7f\x00\t", r"a\x9b2Jb\x85c\x7f\x00"),
        ("left\u202eright\u2066\u200b", r"left\u202eright\u2066\u200b"),
        ("half a pair \ud800", r"half a pair \ud800"),
        ("Größe, 北京, naïve: kept", "Größe, 北京, naïve: kept"),
        ("x" * 9000, "x" * (LONGEST - 4) + " ..."),
    ],
)
def test_a_message_is_one_line_that_no_terminal_acts_on(message: str, line: str) -> None:
    """Controls, escapes and marks of direction are written out, lines are joined."""
    assert str(Seq2EdgeError(message)) == line
    str(InputError(message)).encode("utf-8")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PanicException("index out of range"), "index out of range"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (MemoryError(), "out of memory"),
        (ValueError("two\nlines"), "two lines"),
        (KeyError(), "KeyError"),
        (SystemError("null argument"), "null argument"),
    ],
)
def test_foreign_errors_become_ours(error: BaseException, said: str) -> None:
    """Also one that is no `Exception`; the cause is kept."""
    with pytest.raises(BundleError) as raised, foreign_errors(BundleError, "a.json: damaged"):
        raise error
    assert str(raised.value) == f"a.json: damaged: {said}"
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), InputError("ours")])
def test_what_is_not_foreign_passes(error: BaseException) -> None:
    """Errors of ours, and what stops a program."""
    with pytest.raises(type(error)) as raised, foreign_errors(BundleError, "a.json"):
        raise error
    assert raised.value is error
