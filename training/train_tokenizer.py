"""Tokenizers of a recipe, trained with the `tokenizers` library on its training files.

Ids 0 to 3 are `<pad>`, `<s>`, `</s>` and `<unk>`. A source tokenizer ends a text with `</s>`;
one of a causal model begins it with `<s>`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from seq2edge.bundle.manifest import SpecialTokens, TokenizerRecord
from seq2edge.errors import TrainingError
from seq2edge.files.storage import file_errors
from seq2edge.training.recipe import TWO_SIDED, Objective, Recipe, TokenizerKind
from seq2edge.training.text_files import SkippedLines, read_rows

PAD, START, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
SPECIAL = (PAD, START, END, UNKNOWN)
PAD_ID, START_ID, END_ID = range(3)
SENTINELS = 100  # spans of one corrupted text that a sentinel can stand for
MASK = "<mask>"
RECORD = SpecialTokens(bos=START, eos=END, pad=PAD, unk=UNKNOWN)
SOURCE_FILE, TARGET_FILE = "tokenizer.json", "tokenizer.target.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenIds:
    """The ids that training needs beside those of texts."""

    decoder_start_id: int  # begins the decoder's input
    eos_id: int  # ends a text
    sentinel_ids: tuple[int, ...] = ()  # of span corruption, or the one mask of infilling
    forced_ids: tuple[int, ...] = ()  # come out of the decoder first, whatever the text


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedTokenizers:
    """The record of the files that were written, and what a new model takes from them.

    `vocab` counts the decoder's tokens, `source_vocab` the encoder's where it has its own, else 0.
    """

    record: TokenizerRecord
    vocab: int
    source_vocab: int
    ids: TokenIds


def train_tokenizers(recipe: Recipe, folder: Path) -> TrainedTokenizers:
    """Learn the recipe's tokenizers from the training files and write them into `folder`."""
    settings, split = recipe.tokenizer, bool(recipe.tokenizer.target)
    extra = extra_tokens(recipe.objective)
    source = train_tokenizer(
        _texts(recipe, (0, 1) if recipe.objective == "seq2seq" and not split else (0,)),
        settings.kind,
        settings.size,
        lowercase=settings.lowercase,
        extra=extra,
        begin=recipe.objective == "causal",
    )
    with file_errors(folder, TrainingError):
        source.save(str(folder / SOURCE_FILE))
    target = None
    if settings.target:
        target = train_tokenizer(_texts(recipe, (1,)), settings.target, settings.target_size)
        with file_errors(folder, TrainingError):
            target.save(str(folder / TARGET_FILE))
    tokens, size = source.get_vocab(), source.get_vocab_size(with_added_tokens=True)
    return TrainedTokenizers(
        record=TokenizerRecord(
            source=SOURCE_FILE, target=TARGET_FILE if target else None, special=RECORD
        ),
        vocab=target.get_vocab_size(with_added_tokens=True) if target else size,
        source_vocab=size if target else 0,
        ids=TokenIds(
            decoder_start_id=START_ID,
            eos_id=END_ID,
            sentinel_ids=tuple(tokens[token] for token in extra),
        ),
    )


def extra_tokens(objective: Objective) -> tuple[str, ...]:
    """Special tokens that an objective needs beside the usual ones."""
    if objective == "infill":
        return (MASK,)
    return tuple(map(sentinel, range(SENTINELS))) if objective == "denoise" else ()


def find_labels(recipe: Recipe) -> tuple[str, ...]:
    """All labels of the training files, sorted. Raises TrainingError for fewer than two.

    Of all rows, also where `data.rows` reads fewer: a part of the data has the same classes.
    """
    labels = {row[1] for row in _rows(recipe, most=0)}
    if len(labels) < 2:
        raise TrainingError(f"data.train: {len(labels)} label, a classifier needs two or more")
    return tuple(sorted(labels))


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
    needed = tokenizer.get_vocab_size(with_added_tokens=True)
    if needed > size:
        raise TrainingError(f"tokenizer.size: {size} tokens, {kind} needs {needed} for these texts")
    tokenizer.post_processor = TemplateProcessing(
        single=f"{START} $A" if begin else f"$A {END}",
        special_tokens=[(START, START_ID), (END, END_ID)],
    )
    return tokenizer


def sentinel(number: int) -> str:
    """The token that stands for span `number` of a corrupted text (Raffel et al. 2020)."""
    return f"<extra_id_{number}>"


def _texts(recipe: Recipe, columns: Sequence[int]) -> Iterator[str]:
    for row in _rows(recipe, most=recipe.data.rows):
        yield from (row[column] for column in columns)


def _rows(recipe: Recipe, *, most: int) -> Iterator[tuple[str, ...]]:
    """Texts of all training files (`most` rows of each), inputs behind their file's tag."""
    tags = recipe.data.tags or ("",) * len(recipe.data.train)
    for name, tag in zip(recipe.data.train, tags, strict=True):
        rows = read_rows(
            Path(name),
            columns=2 if recipe.objective in TWO_SIDED else 1,
            fields=recipe.data.fields,
            skipped=SkippedLines(),  # they are reported when the corpus is prepared
        )
        for count, (_, row) in enumerate(rows, start=1):
            yield (tag + row[0], *row[1:])
            if count == most:
                break


def _parts(kind: TokenizerKind, size: int, special: list[str]) -> tuple[Tokenizer, Any]:
    """An untrained tokenizer of a kind and its trainer, None where nothing is learnt."""
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
