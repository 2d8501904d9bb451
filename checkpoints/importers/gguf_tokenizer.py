"""The tokenizer inside a GGUF file, as the files of a Hugging Face folder.

Byte-level BPE alone. How text is cut before the merges is told by name (`tokenizer.ggml.pre`);
the names known here cut as llama.cpp's `llama-vocab.cpp` does, others are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
)

from seq2edge.errors import CheckpointError, UnsupportedError, foreign_errors

CONTROL, USER_DEFINED = 3, 4  # in the list of token types
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CUTS = ("gpt-2", "smollm", "llama-bpe")
READ = frozenset(
    """
    model pre tokens token_type merges scores bos_token_id eos_token_id unknown_token_id
    padding_token_id eot_token_id eom_token_id add_bos_token add_eos_token add_space_prefix
    """.split()
)
PREFIX = "tokenizer.ggml."


def tokenizer_files(settings: Mapping[str, Any], path: Path) -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json; nothing where the file has no tokenizer.

    Raises UnsupportedError for kinds that are not known, CheckpointError for damaged ones.
    """
    if f"{PREFIX}model" not in settings:
        return {}
    values = {k[len(PREFIX) :]: v for k, v in settings.items() if k.startswith(PREFIX)}
    _check(values, path)
    tokens = values["tokens"]
    named = {
        f"{ours}_token": _token(values, f"{theirs}_token_id", path)
        for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
    }
    config: dict[str, Any] = {
        "tokenizer_class": "TokenizersBackend",
        "clean_up_tokenization_spaces": False,
        **{name: token for name, token in named.items() if token is not None},
    }
    if settings.get("tokenizer.chat_template"):
        config["chat_template"] = settings["tokenizer.chat_template"]
    first = (
        named["bos_token"] if values.get("add_bos_token", values["pre"] == "llama-bpe") else None
    )
    tokenizer = _build(tokens, values, path)
    if first is not None:
        tokenizer.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=True),
                processors.TemplateProcessing(
                    single=f"{first} $A", special_tokens=[(first, tokens.index(first))]
                ),
            ]
        )
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
    }


def _check(values: Mapping[str, Any], path: Path) -> None:
    """Refuse settings that are not read here, and lists that do not fit each other."""
    if values["model"] != "gpt2":
        raise UnsupportedError(
            f"{path}: {PREFIX}model {values['model']!r} is not supported, only byte-level BPE "
            "('gpt2'); export the Hugging Face folder of this model instead"
        )
    if values.get("pre") not in CUTS:
        raise UnsupportedError(
            f"{path}: {PREFIX}pre {values.get('pre')!r} is not supported, known: {', '.join(CUTS)}"
        )
    for name in ("add_space_prefix", "add_eos_token"):
        if values.get(name):
            raise UnsupportedError(f"{path}: {PREFIX}{name} is not supported")
    unknown = sorted(set(values) - READ)
    if unknown:
        raise UnsupportedError(f"{path}: {PREFIX}{unknown[0]} is not supported")
    for name in ("tokens", "merges"):
        listed = values.get(name)
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            raise CheckpointError(f"{path}: {PREFIX}{name} is not a list of strings")
    kinds = values.get("token_type", [])
    if not isinstance(kinds, list) or len(kinds) not in (0, len(values["tokens"])):
        raise CheckpointError(f"{path}: {PREFIX}token_type has not one number for every token")


def _token(values: Mapping[str, Any], name: str, path: Path) -> str | None:
    number, tokens = values.get(name), values["tokens"]
    if number is None:
        return None
    if not isinstance(number, int) or not 0 <= number < len(tokens):
        raise CheckpointError(f"{path}: {PREFIX}{name} {number!r} of {len(tokens)} tokens")
    return str(tokens[number])


def _build(tokens: list[str], values: Mapping[str, Any], path: Path) -> Tokenizer:
    """The tokenizer of these tokens and merges."""
    vocabulary = {token: i for i, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ")) for merge in values["merges"]]
    if len(vocabulary) != len(tokens) or any(len(pair) != 2 for pair in pairs):
        raise CheckpointError(f"{path}: {PREFIX}tokens or {PREFIX}merges are damaged")
    llama3 = values["pre"] == "llama-bpe"
    with foreign_errors(CheckpointError, f"{path}: {PREFIX}merges"):
        tokenizer = Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=llama3))
    tokenizer.pre_tokenizer = _cut(values["pre"])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = values.get("token_type", [])
    for special, token_type in ((True, CONTROL), (False, USER_DEFINED)):
        chosen = [t for t, kind in zip(tokens, kinds, strict=False) if kind == token_type]
        added = [AddedToken(token, special=special, normalized=False) for token in chosen]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
    return tokenizer


def _cut(name: str) -> Any:
    if name == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    split = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, bytes_])
