"""A tokenizer of one token for every byte, an end and a language."""

from __future__ import annotations

from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

END, LANGUAGE, VOCAB = 256, 257, 258


def write(file: Path) -> tokenizers.Tokenizer:
    """Save it there."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([*alphabet, "</s>", "<fr>"])}
    made = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["</s>", "<fr>"])
    made.save(str(file))
    return made
