"""Tokenizers that are none, that grow what they read, or name tokens that the model has not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from case import Case, Change, json_edited, rewritten, sealed, written

TOKENIZER = "tokenizer.json"
VOCAB = 96
ESCAPE = "\x1b[2J\x07"
DIGITS = "9" * 5000
Values = dict[str, Any]


def cases() -> Iterator[Case]:
    """All of this file."""
    yield from _files()
    yield from _models()
    yield from _parts()
    yield from _growth()
    yield from _ids()


def _case(name: str, change: Change, **more: Any) -> Case:
    return Case(name=name, start="bart", change=sealed(change), **more)


def _put(name: str, key: str, value: Any, **more: Any) -> Case:
    return _case(name, json_edited(TOKENIZER, lambda v: v.update({key: value})), **more)


def _files() -> Iterator[Case]:
    for what, raw in {
        "empty": "",
        "null": "null",
        "a list": "[]",
        "an empty object": "{}",
        "a number": "4",
        "text": "hello",
        "deep": "[" * 100_000 + "]" * 100_000,
        "deep objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
        "a long integer": DIGITS,
        "NaN": "NaN",
        "a lone surrogate": '"\\ud800"',
        "an unknown version": '{"version": "99.0"}',
    }.items():
        yield _case(f"a file that is {what}", written(TOKENIZER, raw))
    yield _case("a file in Latin-1", written(TOKENIZER, b'{"version": "\xe9"}'))
    yield _case("a file in UTF-16", rewritten(TOKENIZER, lambda d: d.decode().encode("utf-16")))
    yield _case(
        "a byte order mark",
        rewritten(TOKENIZER, lambda data: b"\xef\xbb\xbf" + data),
        outcome="either",
    )
    yield _case(
        "100 MB of spaces", rewritten(TOKENIZER, lambda data: data + b" " * 10**8), outcome="either"
    )
    for part in (1, 2, 3):
        yield _case(
            f"a file cut to {part} quarters",
            rewritten(TOKENIZER, lambda data, p=part: data[: len(data) * p // 4]),
        )
    for key in ("version", "model", "added_tokens"):
        yield _case(
            f"without {key}",
            json_edited(TOKENIZER, lambda v, key=key: v.pop(key) and None),
            outcome="refused" if key == "model" else "either",
        )
    yield _put("an unknown key", "command", "rm -rf /", outcome="either")


def _model(**values: Any) -> Callable[[Values], object]:
    return lambda v: v.update(model=values)


WORDS = {"<s>": 0, "<pad>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, VOCAB)}}


def _models() -> Iterator[Case]:
    for what, model in {
        "of nothing": {},
        "of an unknown kind": {"type": "Exec", "vocab": {}},
        "with an empty vocabulary": {"type": "WordLevel", "vocab": {}, "unk_token": "w3"},
        "without its unknown token": {
            "type": "WordLevel",
            "vocab": {"<s>": 0, "<pad>": 1, "</s>": 2},
            "unk_token": "w3",
        },
        "with ids below zero": {"type": "WordLevel", "vocab": {"w3": -1}, "unk_token": "w3"},
        "with ids of 2^32": {"type": "WordLevel", "vocab": {"w3": 2**32}, "unk_token": "w3"},
        "with ids that are text": {"type": "WordLevel", "vocab": {"w3": "3"}, "unk_token": "w3"},
        "with a list for a vocabulary": {"type": "WordLevel", "vocab": [1], "unk_token": "w3"},
        "of merges without tokens": {
            "type": "BPE",
            "vocab": WORDS,
            "merges": [["a", "b"]],
            "unk_token": "w3",
        },
        "of merges that are no pairs": {"type": "BPE", "vocab": WORDS, "merges": ["a"]},
        "of merges in three parts": {"type": "BPE", "vocab": WORDS, "merges": ["a b c"]},
        "that drops everything": {"type": "BPE", "vocab": WORDS, "merges": [], "dropout": 7.0},
        "that drops at random": {"type": "BPE", "vocab": WORDS, "merges": [], "dropout": 0.5},
        "of bytes without bytes": {
            "type": "BPE",
            "vocab": WORDS,
            "merges": [],
            "byte_fallback": True,
        },
        "of pieces without an unknown one": {
            "type": "WordPiece",
            "vocab": {"a": 0},
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
        "of pieces of 2^62 characters": {
            "type": "WordPiece",
            "vocab": WORDS,
            "unk_token": "w3",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 2**62,
        },
        "of no pieces": {"type": "Unigram", "vocab": [], "unk_id": 0},
        "of an unknown id beyond": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 10**9},
        "of no unknown id": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": None},
        "of empty pieces": {"type": "Unigram", "vocab": [["", 0.0], ["a", -1.0]], "unk_id": 0},
        "of scores of infinity": {
            "type": "Unigram",
            "vocab": [["a", 1e308], ["b", 1e308]],
            "unk_id": 0,
        },
        "of bytes for unknown ones": {
            "type": "Unigram",
            "vocab": [["a", 0.0]],
            "unk_id": 0,
            "byte_fallback": True,
        },
    }.items():
        outcome = "either" if what in EITHER_MODEL else "refused"
        yield _case(f"a model {what}", json_edited(TOKENIZER, _model(**model)), outcome=outcome)
    many = {f"t{i}": i for i in range(300_000)}
    yield _case(
        "a vocabulary of 300,000",
        json_edited(TOKENIZER, _model(type="WordLevel", vocab=many, unk_token="t3")),
        outcome="either",
    )
    yield _case(
        "a token of 10 MB",
        json_edited(
            TOKENIZER, _model(type="WordLevel", vocab={**WORDS, "x" * 10**7: 95}, unk_token="w3")
        ),
        outcome="either",
    )


# They may read these texts all the same.
EITHER_MODEL = {
    "that drops at random",
    "of bytes without bytes",
    "of pieces of 2^62 characters",
    "of empty pieces",
    "of scores of infinity",
    "of no unknown id",
    "of bytes for unknown ones",
    "with an empty vocabulary",
    "that drops everything",
}


def _parts() -> Iterator[Case]:
    for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        for what, value in {
            "unknown": {"type": "Exec"},
            "text": "text",
            "a number": 4,
            "empty": {},
            "a sequence of nothing": {"type": "Sequence"},
        }.items():
            yield _put(f"the {key} is {what}", key, value)
    yield _put(
        "a normalizer of 5000 sequences in each other",
        "normalizer",
        _nested({"type": "Lowercase"}, "normalizers", 100),
        outcome="either",
    )
    for what, pattern in {
        "that explodes": "(a+)+$",
        "that explodes on words": "((w+)*\\s*)*$",
        "of nothing": "",
        "that is broken": "(",
        "that looks behind": "(?<=(a|aa|aaa)*)b",
        "that calls itself": "(?<x>a\\g<x>b|c)",
        "of 10^6 times": "(w{1,1000}){1,1000}",
        "of a megabyte": "w|" * 500_000,
    }.items():
        value = {
            "type": "Split",
            "pattern": {"Regex": pattern},
            "behavior": "Isolated",
            "invert": False,
        }
        yield _put(f"a pattern {what}", "pre_tokenizer", value, outcome="either")
        value = {"type": "Replace", "pattern": {"Regex": pattern}, "content": "w5"}
        yield _put(f"a replaced pattern {what}", "normalizer", value, outcome="either")
    yield _put(
        "characters that are none",
        "normalizer",
        {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    )
    yield _put(
        "characters that lead outside",
        "normalizer",
        {"type": "Precompiled", "precompiled_charsmap": "/////w" + "8" * 60},
        outcome="either",
    )
    yield _put(
        "characters of nothing",
        "normalizer",
        {"type": "Precompiled", "precompiled_charsmap": ""},
        outcome="either",
    )
    for what, value in {
        "a token that is none": {
            "single": [{"SpecialToken": {"id": "none", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        },
        "a sequence that is none": {
            "single": [{"Sequence": {"id": "C", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        },
        "ids beyond the vocabulary": {
            "single": [
                {"SpecialToken": {"id": "x", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [],
            "special_tokens": {"x": {"id": "x", "ids": [10**9], "tokens": ["x"]}},
        },
        "ids and no tokens": {
            "single": [{"SpecialToken": {"id": "x", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"x": {"id": "x", "ids": [1, 2, 3], "tokens": []}},
        },
        "no text": {"single": [], "pair": [], "special_tokens": {}},
        "a type of 2^31": {
            "single": [{"Sequence": {"id": "A", "type_id": 2**31}}],
            "pair": [],
            "special_tokens": {},
        },
    }.items():
        outcome = "either" if what in ("no text", "a type of 2^31") else "refused"
        yield _put(
            f"a template of {what}",
            "post_processor",
            {"type": "TemplateProcessing", **value},
            outcome=outcome,
        )
    yield _put(
        "BERT's end that is none",
        "post_processor",
        {"type": "BertProcessing", "sep": ["x", 10**9], "cls": ["y", 10**9]},
    )
    yield _put(
        "Roberta's end below zero",
        "post_processor",
        {
            "type": "RobertaProcessing",
            "sep": ["x", -1],
            "cls": ["y", -1],
            "trim_offsets": True,
            "add_prefix_space": True,
        },
    )
    for what, value in {
        "to 2^62": {
            "direction": "Right",
            "max_length": 2**62,
            "strategy": "LongestFirst",
            "stride": 0,
        },
        "with a stride beyond": {
            "direction": "Right",
            "max_length": 4,
            "strategy": "LongestFirst",
            "stride": 100,
        },
    }.items():
        yield _put(f"texts cut {what}", "truncation", value, outcome="either")
    for length in (10**6, 10**10):
        yield _put(
            f"texts padded to {length}",
            "padding",
            {
                "strategy": {"Fixed": length},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 1,
                "pad_type_id": 0,
                "pad_token": "<pad>",
            },
            outcome="either",
        )


def _nested(part: Any, key: str, depth: int) -> Any:
    for _ in range(depth):
        part = {"type": "Sequence", key: [part]}
    return part


def _growth() -> Iterator[Case]:
    """What is read or written becomes far longer than it was."""
    megabyte = "w5 " * 350_000
    for what, value in {
        "a space to a megabyte": {
            "type": "Replace",
            "pattern": {"String": " "},
            "content": megabyte,
        },
        "a megabyte before it": {"type": "Prepend", "prepend": megabyte},
        "letters doubled 40 times": {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"String": "w"}, "content": "ww"}] * 40,
        },
        "letters times 1000, four times": {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"String": "w"}, "content": "w" * 1000}]
            * 4,
        },
        "nothing to everything": {"type": "Replace", "pattern": {"Regex": ""}, "content": "w5 "},
    }.items():
        yield _put(
            f"grows {what}",
            "normalizer",
            value,
            outcome="either" if what.startswith("nothing") else "refused",
        )
    yield _put(
        "answers doubled 40 times",
        "decoder",
        {
            "type": "Sequence",
            "decoders": [{"type": "Replace", "pattern": {"String": "w"}, "content": "ww"}] * 40,
        },
    )
    yield _put(
        "answers of a megabyte a space",
        "decoder",
        {"type": "Replace", "pattern": {"String": "w"}, "content": megabyte},
        outcome="either",
    )
    yield _put(
        "spaces for the prefix of 2^62",
        "decoder",
        {"type": "Strip", "content": "w", "start": 2**62, "stop": 0},
        outcome="either",
    )


def _ids() -> Iterator[Case]:
    token = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    for number in (VOCAB, 10**6, 2**32 - 1, 2**32, -1):
        yield _case(
            f"w5 has the id {number}",
            json_edited(TOKENIZER, lambda v, n=number: v["model"]["vocab"].update(w5=n)),
        )
        yield _case(
            f"an added token has the id {number}",
            json_edited(
                TOKENIZER,
                lambda v, n=number: v["added_tokens"].append({"id": n, "content": "w6", **token}),
            ),
            outcome="either" if number > 0 else "refused",
        )
    for what, content in {
        "empty": "",
        "of escapes": ESCAPE,
        "a space": " ",
        "a letter": "w",
        "a lone surrogate": "\ud800",
        "of a megabyte": "w" * 2**20,
    }.items():
        yield _case(
            f"an added token is {what}",
            json_edited(
                TOKENIZER,
                lambda v, c=content: v["added_tokens"].append({"id": 95, "content": c, **token}),
            ),
            outcome="refused" if what == "a lone surrogate" else "either",
        )
    yield _case(
        "all tokens have one id",
        json_edited(
            TOKENIZER, lambda v: v["model"].update(vocab=dict.fromkeys(v["model"]["vocab"], 5))
        ),
        outcome="either",
    )
    yield _case(
        "tokens of escapes",
        json_edited(
            TOKENIZER,
            lambda v: v["model"].update(
                vocab={ESCAPE + k if i > 20 else k: i for k, i in v["model"]["vocab"].items()}
            ),
        ),
        outcome="either",
    )
    yield _case(
        "no end token",
        json_edited(TOKENIZER, lambda v: v["model"]["vocab"].pop("</s>") and None),
        outcome="either",
    )
    yield _case(
        "100,000 added tokens",
        json_edited(
            TOKENIZER,
            lambda v: v["added_tokens"].extend(
                {"id": i, "content": f"x{i}", **token} for i in range(VOCAB, 30_000)
            ),
        ),
        outcome="either",
    )
