"""SentencePiece models with ids of their own, as Marian trains them: one for both sides or two."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from seq2edge.bundle.manifest import SpecialTokens, TokenizerRecord
from seq2edge.checkpoints.sentencepiece import IdMapping, build, read_numbers, read_pieces
from seq2edge.checkpoints.tokenizer import SOURCE, TARGET, Converted, to_bytes
from seq2edge.errors import CheckpointError, UnsupportedError

END, UNKNOWN = "</s>", "<unk>"
IDS = {END: 0, UNKNOWN: 1}  # of all of Marian's vocabularies
SAMPLE = (
    "",
    "  Two  spaces,\ttabs\nand lines. ",
    "Ça coûte 3,50 € – naïve façade, Æther, ½ ﬁ ①",  # noqa: RUF001
    "Съешь же ещё этих мягких французских булок, да выпей чаю",
    "我们今天去北京，天气很好。日本語のテキストｶﾅ",  # noqa: RUF001
    "emoji 😀👍🏽 and ＦＵＬＬ width",  # noqa: RUF001
)


def convert_plain(files: Mapping[str, Path], sizes: tuple[int, int]) -> Converted:
    """The models `source` and, where sides have one each, `target`, ending every text with `</s>`.

    `sizes` are the numbers of embeddings of both sides. Raises CheckpointError or UnsupportedError
    naming the file.
    """
    names = dict(zip(("source", "target"), (SOURCE, TARGET), strict=True))
    made = {
        names[side]: _converted(file, size)
        for (side, file), size in zip(files.items(), sizes, strict=False)
    }
    record = TokenizerRecord(
        source=SOURCE,
        target=TARGET if TARGET in made else None,
        special=SpecialTokens(eos=END, unk=UNKNOWN),
    )
    return Converted(files=made, record=record)


def _converted(file: Path, size: int) -> bytes:
    """One model, proven on text of many scripts."""
    numbers = read_numbers(file)
    if len(numbers) not in (size, size - 1):  # one more is what a translation starts from
        raise CheckpointError(f"{file}: {len(numbers)} pieces, the model has {size} embeddings")
    for token, number in IDS.items():
        if numbers.get(token) != number:
            raise CheckpointError(f"{file}: {token} is {numbers.get(token)}, needs to be {number}")
    mapping = IdMapping(
        ids=numbers,
        added=tuple(tokenizers.AddedToken(token, special=True) for token in (END, UNKNOWN)),
        codes=None,
        unknown=UNKNOWN,
        template=("$A", END),
        gap=" ",
    )
    tokenizer, _ = build(read_pieces(file, byte_fallback=True), mapping, str(file))
    library: Any = importlib.import_module("sentencepiece")
    original = library.SentencePieceProcessor(model_file=str(file))
    for line in SAMPLE:
        mine, theirs = tokenizer.encode(line).ids, [*original.encode(line), IDS[END]]
        if mine != theirs:
            raise UnsupportedError(
                f"{file}: cannot be converted, {line!r} would become {mine} in place of {theirs}"
            )
    return to_bytes(tokenizer)
