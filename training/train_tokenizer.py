"""Tokenizers trained with the `tokenizers` library.

Ids 0 to 3 are `<pad>`, `<s>`, `</s>` and `<unk>`. A source tokenizer ends a text with `</s>`;
one of a causal model begins it with `<s>`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from seq2edge.bundle.manifest import SpecialTokens
from seq2edge.errors import TrainingError
from seq2edge.training.recipe import TokenizerKind

PAD, START, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
SPECIAL = (PAD, START, END, UNKNOWN)
PAD_ID, START_ID, END_ID, UNKNOWN_ID = range(4)
SENTINELS = 100  # spans of one corrupted text that a sentinel can stand for
MASK = "<mask>"
RECORD = SpecialTokens(bos=START, eos=END, pad=PAD, unk=UNKNOWN)


def train_tokenizer(
    texts: Iterable[str],
    kind: TokenizerKind,
    size: int,
    *,
    lowercase: bool = False,
    extra: tuple[str, ...] = (),
    begin: bool = False,
) -> Tokenizer:
    """A tokenizer of at most `size` tokens, `extra` special ones included.

    `begin` puts `<s>` before every text instead of `</s>` behind it. Raises TrainingError where
    `size` cannot hold what the kind needs.
    """
    special = [*SPECIAL, *extra]
    tokenizer, trainer = _parts(kind, size, special)
    if lowercase:
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    elif kind != "words":
        tokenizer.normalizer = normalizers.NFKC()
    if trainer is not None:
        tokenizer.train_from_iterator(texts, trainer)
    found = tokenizer.get_vocab_size(with_added_tokens=True)
    if found > size:
        raise TrainingError(f"tokenizer.size: {size} tokens, {kind} needs {found} for these texts")
    tokenizer.post_processor = TemplateProcessing(
        single=f"{START} $A" if begin else f"$A {END}",
        special_tokens=[(START, START_ID), (END, END_ID)],
    )
    return tokenizer


def sentinel(number: int) -> str:
    """The token that stands for span `number` of a corrupted text (Raffel et al. 2020)."""
    return f"<extra_id_{number}>"


def _parts(kind: TokenizerKind, size: int, special: list[str]) -> tuple[Tokenizer, Any]:
    common: dict[str, Any] = {"vocab_size": size, "special_tokens": special, "show_progress": False}
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        return tokenizer, trainers.BpeTrainer(initial_alphabet=alphabet, **common)
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        return tokenizer, trainers.UnigramTrainer(unk_token=UNKNOWN, **common)
    if kind == "bytes":
        return _bytes(special), None
    if kind == "characters":
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
        return tokenizer, trainers.WordLevelTrainer(**common)
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer, trainers.WordLevelTrainer(**common)


def _bytes(special: list[str]) -> Tokenizer:
    """Every byte is a token (as in ByT5, Xue et al. 2022): nothing is ever unknown."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
