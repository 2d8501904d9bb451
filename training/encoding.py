"""Tokenizers of a run, and how a row of texts becomes rows of ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import tokenizers

from seq2edge.bundle.manifest import TokenizerRecord
from seq2edge.errors import InputError, TrainingError
from seq2edge.runtime.tokenizer import Tokenizer
from seq2edge.training.corpus import Encode, Ids, TooLong
from seq2edge.training.presets import longest
from seq2edge.training.recipe import TWO_SIDED, Objective, Recipe
from seq2edge.training.text_files import SkippedLines, read_rows
from seq2edge.training.train_tokenizer import MASK, RECORD, SENTINELS, sentinel, train_tokenizer

SOURCE, TARGET = "tokenizer.json", "tokenizer.target.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenIds:
    """Ids that training needs beside the text's own. `first` is forced out of the decoder first."""

    text: Tokenizer
    start: int
    end: int
    special: tuple[int, ...] = ()
    first: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()


def train_tokenizers(recipe: Recipe, folder: Path) -> TokenizerRecord:
    """Learn the recipe's tokenizers from the training files and write them into `folder`."""
    wanted = recipe.tokenizer
    split = bool(wanted.target)
    both = (0, 1) if recipe.objective == "seq2seq" and not split else (0,)
    source = train_tokenizer(
        _texts(recipe, both),
        wanted.kind,
        wanted.size,
        lowercase=wanted.lowercase,
        extra=extra_tokens(recipe.objective),
        begin=recipe.objective == "causal",
    )
    source.save(str(folder / SOURCE))
    if not split:
        return TokenizerRecord(source=SOURCE, special=RECORD)
    assert wanted.target
    target = train_tokenizer(_texts(recipe, (1,)), wanted.target, wanted.target_size)
    target.save(str(folder / TARGET))
    return TokenizerRecord(source=SOURCE, target=TARGET, special=RECORD)


def extra_tokens(objective: Objective) -> tuple[str, ...]:
    """Special tokens that an objective needs beside the usual ones."""
    if objective == "infill":
        return (MASK,)
    return tuple(map(sentinel, range(SENTINELS))) if objective == "denoise" else ()


def vocabulary_sizes(folder: Path, record: TokenizerRecord) -> tuple[int, int]:
    """Tokens of the decoder's and of the encoder's own vocabulary (0: the same)."""

    def size(name: str) -> int:
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / name))
        found: int = tokenizer.get_vocab_size(with_added_tokens=True)
        return found

    if record.target:
        return size(record.target), size(record.source)
    return size(record.source), 0


def encoder(recipe: Recipe, vocabulary: TokenIds, *, tags: Sequence[str] = ()) -> Encode:
    """The function that turns a line of file `number` into rows of ids.

    It raises TooLong where a row does not fit, and InputError for an unknown label.
    """
    most, text, cut = longest(recipe), vocabulary.text, recipe.data.cut

    def fit(ids: Ids, end: Sequence[int]) -> Ids:
        if len(ids) > most and not cut:
            raise TooLong
        return ids if len(ids) <= most else [*ids[: most - len(end)], *end]

    def source(number: int, line: str) -> Ids:
        ids = text.encode(f"{tags[number]}{line}" if tags else line)
        return fit(ids, [vocabulary.end])

    def translate(number: int, row: tuple[str, ...]) -> Iterator[tuple[Ids, ...]]:
        target = [*vocabulary.first, *text.encode_target(row[1]), vocabulary.end]
        yield source(number, row[0]), fit(target, [vocabulary.end])

    def label(number: int, row: tuple[str, ...]) -> Iterator[tuple[Ids, ...]]:
        if row[1] not in vocabulary.labels:
            known = ", ".join(vocabulary.labels[:20])
            raise InputError(f"the label {row[1]!r} is unknown, known: {known}")
        yield source(number, row[0]), [vocabulary.labels.index(row[1])]

    functions: dict[str, Encode] = {"seq2seq": translate, "classify": label}
    return functions.get(recipe.objective) or _raw(recipe, vocabulary)


def _raw(recipe: Recipe, vocabulary: TokenIds) -> Encode:
    """Texts without an answer, in pieces of the longest length."""
    text = vocabulary.text
    causal = recipe.objective == "causal"
    room = longest(recipe) + 1 if causal else longest(recipe) - 2
    least = 2  # a piece of one token has nothing to predict

    def pieces(_: int, row: tuple[str, ...]) -> Iterator[tuple[Ids, ...]]:
        ids: Ids = text.encode(row[0]) if causal else text.encode(row[0], special_tokens=False)
        ids = [*ids, vocabulary.end] if causal and ids[-1] != vocabulary.end else ids
        for start in range(0, len(ids), room):
            if len(ids) - start >= least:
                yield (ids[start : start + room],)

    return pieces


def find_labels(recipe: Recipe) -> tuple[str, ...]:
    """All labels of the training files, sorted. Raises TrainingError for fewer than two.

    Of all rows, also where `data.rows` reads fewer: a part of the data has the same classes.
    """
    found = {row[1] for row in _rows(recipe, most=0)}
    if len(found) < 2:
        raise TrainingError(f"data.train: {len(found)} label, a classifier needs two or more")
    return tuple(sorted(found))


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
            bad=SkippedLines(),  # they are reported when the corpus is prepared
        )
        for count, (_, row) in enumerate(rows, start=1):
            yield (tag + row[0], *row[1:])
            if count == most:
                break
