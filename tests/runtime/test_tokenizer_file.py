"""Tokenizers of strangers: refused when they are read, or bounded in time and memory."""
# ruff: noqa: E501 - a file a line

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from limited import limited
from tokenizers import Regex, decoders, normalizers

from seq2edge.errors import BundleError, InputError
from seq2edge.runtime import tokenizer_file
from seq2edge.runtime.panics import without_panic_reports
from seq2edge.runtime.timed import within
from seq2edge.runtime.tokenizer_file import GROWTH, TokenizerFile, _growth

WORDS = {"type": "WordLevel", "vocab": {"a": 0, "<unk>": 1, "b": 2}, "unk_token": "<unk>"}
LETTERS = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0], ["▁", -1.0]]}


def text_of(**parts: Any) -> str:
    """A tokenizer.json with these parts."""
    names = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    return json.dumps(
        {"version": "1.0", "added_tokens": [], **dict.fromkeys(names), "model": WORDS, **parts}
    )


def opened(text: str) -> TokenizerFile:
    """The tokenizer of a file with this text."""
    return TokenizerFile(text.encode("utf-8", "surrogatepass"), "tokenizer.json")


def replace(pattern: str, content: str, kind: str = "String") -> dict[str, Any]:
    """A part that replaces texts."""
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def several(*parts: dict[str, Any], name: str = "normalizers") -> dict[str, Any]:
    """Parts one behind another."""
    return {"type": "Sequence", name: list(parts)}


def template(single: list[Any], special: dict[str, Any] | None = None) -> dict[str, Any]:
    """What stands around a text."""
    pair = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": pair,
        "special_tokens": special or {},
    }


def charsmap(*texts: bytes, trie: bytes = b"\0" * 1024) -> dict[str, Any]:
    """A map of SentencePiece with these replacements."""
    data = len(trie).to_bytes(4, "little") + trie + b"\0".join(texts) + b"\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


A = {"Sequence": {"id": "A", "type_id": 0}}
MARK = {"SpecialToken": {"id": "x", "type_id": 0}}
REFUSED = {
    "no json": ("{", "not a tokenizer: EOF"),
    "deep json": (
        '{"normalizer": ' + '{"type": "Sequence", "normalizers": [' * 9999,
        "not a tokenizer: recursion limit",
    ),
    "no text": ("\ud800", "not a tokenizer: 'utf-8' codec"),
    "escapes": ('{"version": "\x1b[31m\n"', "not a tokenizer: control character"),
    "an unknown part": (text_of(normalizer={"type": "\x1b[31mNo"}), "not a tokenizer"),
    "a panic": (text_of(normalizer={"type": "Precompiled", "precompiled_charsmap": ""}), "."),
    "no regex": (
        text_of(
            pre_tokenizer={
                "type": "Split",
                "pattern": {"Regex": "("},
                "behavior": "Isolated",
                "invert": False,
            }
        ),
        "not a tokenizer",
    ),
    "a long content": (text_of(normalizer=replace("a", "b" * 10**6)), "1,024 times longer"),
    "a long prefix": (
        text_of(normalizer={"type": "Prepend", "prepend": "b" * 10**6}),
        "1,024 times longer",
    ),
    "contents that grow": (
        text_of(normalizer=several(*[replace("a", "aa")] * 40)),
        "1,024 times longer",
    ),
    "parts in parts": (
        text_of(normalizer=several(*[several(*[replace("a", "aaaa")] * 4)] * 4)),
        "1,024 times longer",
    ),
    "a regex that matches nothing": (
        text_of(normalizer=several(*[replace("", "aaaa", "Regex")] * 9)),
        "1,024 times longer",
    ),
    "an empty pattern": (text_of(normalizer=several(*[replace("", "aaaa")] * 9)), "."),
    "a decoder that grows": (
        text_of(decoder=several(*[replace("a", "aa")] * 40, name="decoders")),
        "decoder: makes a text more than 1,024 times longer",
    ),
    "a map of long texts": (text_of(normalizer=charsmap(b"a", b"b" * 10**5)), "longer"),
    "a text twice": (text_of(post_processor=template([A, A])), "repeats a text"),
    "a text many times": (
        text_of(post_processor=several(*[template([A] * 99)] * 9, name="processors")),
        "repeats a text",
    ),
    "much around a text": (
        text_of(
            post_processor=template(
                [A, *[MARK] * 99], {"x": {"id": "x", "ids": [0], "tokens": ["a"]}}
            )
        ),
        "too much around it",
    ),
    "a special token of many": (
        text_of(
            post_processor=template(
                [A, MARK], {"x": {"id": "x", "ids": [0] * 999, "tokens": ["a"] * 999}}
            )
        ),
        "too much around it",
    ),
    "a long token": (
        text_of(model={**WORDS, "vocab": {"a" * 10**6: 0, "<unk>": 1}}),
        "a token of more than 4,096",
    ),
    "many entries": (
        text_of(
            model={**WORDS, "vocab": {**WORDS["vocab"], **{f"{i:x}": i for i in range(3, 2**21)}}}
        ),
        "more than 2,097,152 entries",
    ),
    "a long token of quotes": (
        text_of(model={**WORDS, "vocab": {'"' * 10**6: 0, "<unk>": 1}}),
        "a token of more than 4,096",
    ),
    "a long affix": (
        text_of(
            model={
                "type": "BPE",
                "vocab": {"a": 0},
                "merges": [],
                "end_of_word_suffix": "b" * 10**6,
                "continuing_subword_prefix": "c",
            }
        ),
        "more than 64 characters",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_damaged_or_unbounded_is_refused(name: str) -> None:
    """One line with what is wrong, whatever the library raises."""
    text, message = REFUSED[name]
    with limited(), pytest.raises(BundleError, match=message) as refusal:
        opened(text)
    assert str(refusal.value).isprintable()
    assert str(refusal.value).startswith("tokenizer.json: ")


def split(pattern: str) -> dict[str, Any]:
    """A part that cuts texts."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"pre_tokenizer": split("(a+)+$")}, "a" * 40 + "b"),
        ({"pre_tokenizer": split("[a-z]*[a-z]*(?<=b)")}, "a" * 1000),
        ({"normalizer": replace("(a|aa)+$", "", "Regex")}, "a" * 60 + "b"),
        ({"normalizer": replace("[a-z]*[a-z]*(?<=b)", "", "Regex")}, "a" * 1000),
    ],
)
def test_a_text_that_takes_too_long_is_refused(
    parts: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the library panics or goes on for ever; from then on the file is not used."""
    monkeypatch.setattr(tokenizer_file, "SECONDS", 0.5)
    monkeypatch.setattr(tokenizer_file, "PER_SECOND", 10**6)
    file = opened(text_of(**parts))
    with limited():
        assert file.encode("ab", special_tokens=False) is not None
        with pytest.raises(InputError, match=r"cannot read it: (not done|Onig: .* over)") as first:
            file.encode(text, special_tokens=False)
        assert str(first.value).isprintable()
        if "not done" in str(first.value):
            with pytest.raises(InputError, match="took too long for an earlier text"):
                file.encode("a", special_tokens=False)


def test_decoding_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock, and by what the tokens come to."""
    monkeypatch.setattr(tokenizer_file, "SECONDS", 0.5)
    vocab = {"a" * 2000: 0, "<unk>": 1, "b": 2}
    slow = opened(
        text_of(model={**WORDS, "vocab": vocab}, decoder=replace("a*a*(?<=b)", "", "Regex"))
    )
    with limited(), pytest.raises(InputError, match=r"token ids: .*not done within"):
        slow.decode([0], skip_special_tokens=True)
    grows = opened(text_of(model={**WORDS, "vocab": vocab}, decoder=replace("a", "a" * 200)))
    with limited(), pytest.raises(InputError, match="token ids: their text has more than"):
        grows.decode([0] * 100, skip_special_tokens=True)
    assert len(grows.decode([0], skip_special_tokens=True)) == 400_000


def test_texts_are_as_long_as_memory_allows() -> None:
    """A file that makes texts longer reads shorter ones."""
    plain, grows = opened(text_of()), opened(text_of(normalizer=replace("a", "a" * 200)))
    assert (plain.longest, grows.longest) == (2**22, 83_886)
    with limited():
        assert len(grows.encode("a" * 800, special_tokens=False).tokens) == 1
        for file in (plain, grows):
            with pytest.raises(InputError, match=r"at most .* are read at a time, cut it"):
                file.encode("a" * (file.longest + 1), special_tokens=False)
            with pytest.raises(InputError, match="at most"):
                file.encode("a", "a" * file.longest, special_tokens=False)


@pytest.mark.parametrize("text", ["\ud800", None, 7, b"a"])
def test_what_is_no_text_is_an_input_error(text: Any) -> None:
    """Of the text or of the second one."""
    with pytest.raises(InputError, match="is not Unicode text"):
        opened(text_of()).encode(text, special_tokens=False)
    with pytest.raises(InputError, match="is not Unicode text"):
        opened(text_of()).encode("a", text or "\udfff", special_tokens=False)


def test_only_a_regular_file_of_some_size_is_read(tmp_path: Path) -> None:
    """A pipe would never end."""
    path = tmp_path / "tokenizer.json"
    with pytest.raises(BundleError, match=r"not a tokenizer: .*No such file"):
        TokenizerFile.read(path)
    os.mkfifo(path)
    with limited(), pytest.raises(BundleError, match="not a regular file"):
        TokenizerFile.read(path)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(2**40)
    with limited(memory=2**28), pytest.raises(BundleError, match="more than 67,108,864 bytes"):
        TokenizerFile.read(path)


def test_usual_parts_are_read() -> None:
    """What published tokenizers consist of is far from any bound."""
    file = opened(
        text_of(
            normalizer=several(
                charsmap(b"a" * 33),
                replace(" {2,}", "▁", "Regex"),
                {"type": "Prepend", "prepend": "▁"},
            ),
            post_processor=template([A, MARK], {"x": {"id": "x", "ids": [0], "tokens": ["<unk>"]}}),
            decoder=several(
                replace("▁", " "),
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
                name="decoders",
            ),
            model=LETTERS,
        )
    )
    assert file.longest == 2**22
    encoding = file.encode("aa", special_tokens=True)
    assert encoding.tokens == ["▁", "a", "a", "<unk>"]
    assert file.decode(encoding.ids, skip_special_tokens=False) == "aa<unk>"
    assert file.encode("a", "a", special_tokens=True).type_ids == [0] * 4


def test_a_call_that_is_late_holds_up_no_other() -> None:
    """Each late call keeps a thread; others have one of their own, and errors are those of calls."""
    free = threading.Event()
    with pytest.raises(TimeoutError, match="not done within 0 seconds"):
        within(0.01, free.wait)
    assert within(5, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 / 0)
    free.set()


def test_calls_after_a_fork_have_threads() -> None:
    """A child process has none of its parent's."""
    assert within(5, lambda: 1) == 1
    child = os.fork()
    if not child:
        os._exit(within(5, lambda: 7))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize("parts", [{"pre_tokenizer": split("(a+)+$")}, {"normalizer": charsmap()}])
def test_a_panic_is_told_by_the_error_alone(parts: dict[str, Any], capfd: Any) -> None:
    """The library's report does not reach standard error, all else does."""
    if "normalizer" in parts:
        parts = {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}
    with pytest.raises((BundleError, InputError)):
        opened(text_of(**parts)).encode("a" * 40 + "b", special_tokens=False)
    with without_panic_reports():
        os.write(2, b"a line of others\n")
    assert capfd.readouterr().err == "a line of others\n"


CODES = [f">>x{number:03}<<" for number in range(300)]
MARKS = [chr(0xE000 + number) for number in range(300)]
HONEST = {
    "codes at the beginning": normalizers.Sequence(
        [
            normalizers.Replace(Regex(rf"\A{re.escape(code)}"), f"{mark} ")
            for code, mark in zip(CODES, MARKS, strict=True)
        ]
    ),
    "marks of codes, and gaps behind them": decoders.Sequence(
        [
            *(decoders.Replace(mark, code) for code, mark in zip(CODES, MARKS, strict=True)),
            *(decoders.Replace(Regex(rf"{re.escape(code)}_*"), f"{code}_") for code in CODES),
        ]
    ),
}
GROWING = {
    "each doubles what the one before wrote": [
        normalizers.Replace(one, two * 2) for one, two in itertools.pairwise("abcdefghijklm")
    ],
    "matches of nothing": [normalizers.Replace(Regex("x*"), "ab")] * 8,
    "what stays comes twice": [normalizers.Replace("ab", "abab")] * 12,
    "other letters of what was written": [
        part
        for one, two in itertools.pairwise("abcd")
        for part in (normalizers.Replace(one, two.upper() * 200), normalizers.Lowercase())
    ],
}


@pytest.mark.parametrize("name", HONEST)
def test_long_lists_of_codes_are_no_growth(name):
    """As Marian's models of hundreds of languages have them."""
    assert _growth(json.loads(HONEST[name].__getstate__())) < GROWTH


@pytest.mark.parametrize("name", GROWING)
def test_growth_of_what_was_written_is_a_product(name):
    """Whatever hides that it was written before."""
    parts = normalizers.Sequence(GROWING[name])
    assert _growth(json.loads(parts.__getstate__())) > GROWTH
