"""Tiny bundles that read and write text: words of the form w5, one token each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from seq2edge.export.pipeline import export_checkpoint
from seq2edge.quantize.examples import Example

SPECIAL = ["<s>", "<pad>", "</s>"]


def write_tokenizer(folder: Path, template: str | None = None) -> None:
    """A tokenizer.json of w3 to w95 and three special tokens, with an end after every text."""
    names = SPECIAL + [f"w{i}" for i in range(len(SPECIAL), tiny_models.VOCAB)]
    words = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "TokenizersBackend", "eos_token": "</s>", "pad_token": "<pad>"}
    if template is not None:
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def speaking_bundle(
    name: str, folder: Path, *, template: str | None = None, **changes: Any
) -> Path:
    """Export the tiny model of that name with this tokenizer; the bundle's folder."""
    tiny_models.save(name, folder / "checkpoint", **changes)
    write_tokenizer(folder / "checkpoint", template)
    export_checkpoint(folder / "checkpoint", folder / "bundle")
    return folder / "bundle"


def sentences(count: int = 20, words: int = 9) -> list[Example]:
    """Random texts that the tokenizer of `speaking_bundle` reads, always the same."""
    rows = np.random.default_rng(7).integers(len(SPECIAL), tiny_models.VOCAB, (count, words))
    return [Example(input=" ".join(f"w{i}" for i in row)) for row in rows]
