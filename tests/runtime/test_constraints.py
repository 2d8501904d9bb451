"""Answers follow the rules, whatever the model would say, in every way of choosing."""

from __future__ import annotations

import json
import re

import byte_tokens
import jsonschema
import numpy as np
import pytest
import tokenizers
from byte_tokens import END, LANGUAGE, VOCAB
from limited import limited

import seq2edge
from seq2edge.errors import InputError, OptionError
from seq2edge.runtime import constraints
from seq2edge.runtime.constraints import Constraint
from seq2edge.runtime.fake import FakeBackend
from seq2edge.runtime.options import DecodeOptions
from seq2edge.runtime.request import Request
from seq2edge.runtime.scheduler import decode

SCHEMA = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}, "room": {"enum": ["kitchen", "hall"]}},
    "required": ["on", "room"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},  # the library's own keyword
}
WAYS = {
    "greedy": {},
    "beams": {"num_beams": 3, "num_return_sequences": 3},
    "drawn": {"do_sample": True, "seed": 2, "num_return_sequences": 4, "top_k": 0},
    "drawn beams": {"do_sample": True, "seed": 2, "num_beams": 3, "top_k": 0},
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """One token for every byte."""
    file = tmp_path_factory.mktemp("bytes") / "tokenizer.json"
    byte_tokens.write(file)
    return file


def answers(tokenizer, noise_seed, limit=60, prompt=(5, 6), **values):
    """Texts of a model that babbles, under these rules, and why they ended."""
    options = DecodeOptions(eos_token_id=END, **values)
    rng = np.random.default_rng(noise_seed)
    noise = rng.standard_normal((50, VOCAB)) * 3
    backend = FakeBackend(lambda history, _: noise[(sum(history) + len(history)) % 50])
    request = Request(
        prompt=prompt,
        options=options,
        max_new_tokens=limit,
        processors=[Constraint(options, tokenizer, VOCAB, len(prompt))],
    )
    plain = tokenizers.Tokenizer.from_file(str(tokenizer))
    return [(plain.decode(list(s.ids)), s.finish_reason) for s in decode(backend, [request])[0]]


@pytest.mark.parametrize("way", WAYS)
def test_json_of_a_schema(tokenizer, way):
    """It can be read, and is what the schema asks for; most end before the limit."""
    whole = 0
    for seed in range(3):
        for text, reason in answers(tokenizer, seed, json_schema=SCHEMA, **WAYS[way]):
            if reason == "stop":
                jsonschema.validate(json.loads(text), SCHEMA)
                whole += 1
            else:
                assert text.startswith("{")
    assert whole >= 3


@pytest.mark.parametrize("way", WAYS)
def test_a_regular_expression(tokenizer, way):
    """The whole answer matches."""
    for seed in range(3):
        for text, reason in answers(tokenizer, seed, regex="(yes|no), [0-9]{3}!", **WAYS[way]):
            assert reason == "stop"
            assert re.fullmatch("(yes|no), [0-9]{3}!", text)


@pytest.mark.parametrize("way", WAYS)
def test_forced_special_tokens_are_no_part_of_the_text(tokenizer, way):
    """A language before it, and an end at the limit, where the rules would forbid them."""
    forced = {"forced_bos_token_id": LANGUAGE, "forced_eos_token_id": END}
    found = answers(tokenizer, 0, 6, prompt=[5], regex="[ab]{9}", **forced, **WAYS[way])
    for text, reason in found:
        assert re.fullmatch("[ab]{4}", text)
        assert reason == "length"


def test_what_the_rules_forbid_cannot_be_forced(tokenizer):
    """Nothing would be left to choose."""
    with pytest.raises(OptionError, match="forced_bos_token_id, regex: after 0 tokens no other"):
        answers(tokenizer, 0, prompt=[5], regex="[0-9]+", forced_bos_token_id=5)


def test_a_grammar(tokenizer):
    """In llguidance's form of Lark: brackets that close."""
    grammar = 'start: "(" start ")" | "x"'
    for seed in range(9):
        ((text, reason),) = answers(tokenizer, seed, grammar=grammar)
        if reason == "stop":
            assert re.fullmatch(r"\(*x\)*", text)
            assert text.count("(") == text.count(")")
        else:
            assert set(text) <= {"("}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"json_schema": {"type": "object", "colour": 3}}, "'colour' is no keyword of JSON"),
        ({"json_schema": {"properties": {"colour": {"minLenght": 3}}}}, "'minLenght' is no keyw"),
        ({"json_schema": {"type": "array", "uniqueItems": True}}, "json_schema: .*uniqueItems"),
        ({"json_schema": {"type": "colour"}}, "json_schema: "),
        ({"json_schema": "{"}, "json_schema: "),
        ({"regex": "("}, "regex: "),
        ({"grammar": "start: nothing"}, "grammar: .*nothing"),
    ],
)
def test_rules_that_are_not_understood_are_refused(tokenizer, values, message):
    """By name, also a keyword that the library would pass over."""
    with pytest.raises(OptionError, match=message):
        Constraint(DecodeOptions(eos_token_id=END, **values), tokenizer, VOCAB, 2)


def test_rules_need_an_end(tokenizer):
    """Else a finished answer could only go on."""
    with pytest.raises(OptionError, match="eos_token_id: rules need an end token"):
        Constraint(DecodeOptions(regex="a"), tokenizer, VOCAB, 2)


def test_a_tokenizer_that_cannot_be_read_is_named(speaking):
    """Words without a decoder say not which text they make."""
    model = seq2edge.load(speaking("bart"), device="cpu", threads=1)
    with pytest.raises(InputError, match=r"tokenizer\.json: llguidance cannot read this tokenizer"):
        model.generate(["w5 w6"], model.options.replace(regex="w7"))


@pytest.mark.parametrize(
    "values",
    [
        {"json_schema": "[" * 100_000},
        {"json_schema": '{"const": 1' + "0" * 5000 + "}"},
        {"json_schema": '{"maximum": 1e999, "type": "integer"}'},
        {"json_schema": '{"\\u001b[31m\\n": 1}'},
        {"regex": "(" * 100_000},
        {"regex": "\x1b[31m\n("},
        {"grammar": "start: " + "(" * 100_000},
        {"grammar": "start: \ud800"},
    ],
)
def test_rules_of_any_kind_are_refused_in_one_line(tokenizer, values):
    """Deep, long, not finite, not text: whatever the libraries raise."""
    with limited(), pytest.raises(OptionError) as refusal:
        Constraint(DecodeOptions(eos_token_id=END, **values), tokenizer, VOCAB, 2)
    assert str(refusal.value).isprintable()


def test_rules_that_take_too_long_are_refused(tokenizer, monkeypatch):
    """The clock bounds what no size tells."""
    monkeypatch.setattr(constraints, "SECONDS", 0.0)
    with pytest.raises(OptionError, match="regex: not done within 0 seconds"):
        Constraint(DecodeOptions(eos_token_id=END, regex="a{100000}"), tokenizer, VOCAB, 2)


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b"\xff", b'{"model": 1e999}'])
def test_a_tokenizer_of_any_kind_is_named(tmp_path, data):
    """Whatever the library raises, or panics about."""
    (tmp_path / "tokenizer.json").write_bytes(data)
    with limited(), pytest.raises(InputError, match=r"tokenizer\.json: llguidance cannot read"):
        Constraint(DecodeOptions(eos_token_id=END, regex="a"), tmp_path / "tokenizer.json", 9, 2)
