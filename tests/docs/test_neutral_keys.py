"""The settings that change nothing, as docs/checkpoints.md prints them.

`python tests/docs/test_neutral_keys.py` writes the table anew.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from seq2edge.checkpoints.families.family import Config
from seq2edge.checkpoints.families.neutral import NEUTRAL
from seq2edge.errors import UnsupportedError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md"
PRINTED = re.compile(r"^\| settings \|.*\n(?:\|.*\n)+", re.MULTILINE)
MEANINGFUL = "is_decoder pruned_heads layer_types final_logit_softcapping sliding_window"


def table() -> str:
    """A line a reason, with its keys."""
    lines = ["| settings | why they change nothing |", "|---|---|"]
    for reason in dict.fromkeys(NEUTRAL.values()):
        keys = ", ".join(f"`{key}`" for key, why in NEUTRAL.items() if why == reason)
        lines.append(f"| {keys} | {reason} |")
    return "\n".join(lines) + "\n"


def test_the_page_has_the_table():
    """Every key with its reason, and none beside them."""
    assert PRINTED.findall(PAGE.read_text(encoding="utf-8")) == [table()]


@pytest.mark.parametrize("key", MEANINGFUL.split())
def test_what_changes_the_answers_is_not_in_it(key):
    """A new key must not make a known feature neutral."""
    config = Config({key: [1]})
    with pytest.raises(UnsupportedError, match=rf"not supported: {key}=\[1\]"):
        config.check_all_read()


@pytest.mark.parametrize("value", [None, False, "", [], {}])
def test_an_unknown_setting_that_sets_nothing_is_none(value):
    """`pruned_heads: {}` stands in every old BERT."""
    Config({"clever_trick": value}).check_all_read()


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(PRINTED.sub(lambda _: table(), text), encoding="utf-8")
