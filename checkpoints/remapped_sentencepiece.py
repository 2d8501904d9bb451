"""Tokenizers that transformers runs in Python over SentencePiece: Marian's and M2M100's.

They are rebuilt on the `tokenizers` library and accepted only if they give the ids of the original
on text of many scripts.
"""
# ruff: noqa: RUF001 - the sample is in many scripts on purpose

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tokenizers

from seq2edge.bundle.manifest import TokenizerRecord
from seq2edge.checkpoints.sentencepiece import IdMapping, build, read_pieces
from seq2edge.checkpoints.tokenizer import (
    SOURCE,
    TARGET,
    Converted,
    Original,
    special_tokens,
    to_bytes,
)
from seq2edge.errors import CheckpointError, UnsupportedError
from seq2edge.files.workspace import temporary_folder
from seq2edge.runtime.tokenizer import Tokenizer

SAMPLE = (
    "",
    "  Two  spaces,\ttabs\nand lines. ",
    "Ça coûte 3,50 € – naïve façade, Æther, ½ ﬁ ①",
    "Grüße aus Köln: „Straße“, Öl, größer!",
    "Η γρήγορη αλεπού πηδά πάνω από τον σκύλο.",
    "Съешь же ещё этих мягких французских булок",
    "我们今天去北京，天气很好。日本語のテキストｶﾅ",
    "اللغة العربية جميلة جدا",
    "emoji 😀👍🏽 and ＦＵＬＬ width",
    ">>fra<< at the start, not >>fra<< inside",
    ">>xx<<unknown code",
    "a</s> b<unk>c <pad> d",
)
_WIDEST_GAP = 100_000  # ids that a vocabulary may leave out
_LIMIT = 10_000_000  # ids are smaller than this


def convert_marian(original: Original, copy: Path, folder: Path) -> Converted:
    """Marian's pair of SentencePiece models with one vocabulary, or one for each side."""
    added = _added(original)
    named = {c for c in original.encoder if c.startswith(">>") and c.endswith("<<")}
    codes = tuple(sorted(named - set(added)))
    tokenizer, size = build(
        read_pieces(copy / "source.spm"),
        IdMapping(
            ids={**_numbers(original.encoder, folder / "vocab.json"), **added},
            added=_tokens(original, added),
            codes=codes,
            unknown=str(original.unk_token),
            template=("$A", str(original.eos_token)),
            gap=" ",
        ),
        str(folder / "vocab.json"),
    )
    files = {SOURCE: to_bytes(tokenizer)}
    if original.separate_vocabs:
        files[TARGET] = to_bytes(_marian_target(original, copy, folder))
    languages = {code[2:-2]: original.encoder[code] for code in codes}
    record = TokenizerRecord(
        source=SOURCE,
        target=TARGET if original.separate_vocabs else None,
        special=special_tokens(original),
        languages=languages,
        target_layout="source" if languages else "",
        unknown_from=size,
        clean_up=bool(original.clean_up_tokenization_spaces),
    )
    return _proven(Converted(files=files, record=record), original, folder)


def _marian_target(original: Original, copy: Path, folder: Path) -> tokenizers.Tokenizer:
    """The decoder's tokenizer, of a model with a vocabulary for each side."""
    path = folder / "target_vocab.json"
    ids = _numbers(original.target_encoder, path)
    added = {token: ids[token] for token in _added(original) if token in ids}
    for token in (original.unk_token, original.eos_token):
        if token not in ids:
            raise CheckpointError(f"{path}: no {token}")
    mapping = IdMapping(
        ids=ids,
        added=_tokens(original, added),
        codes=None,
        unknown=str(original.unk_token),
        template=("$A", str(original.eos_token)),
        gap=" ",
    )
    tokenizer, _ = build(read_pieces(copy / "target.spm"), mapping, str(path))
    return tokenizer


def convert_m2m100(original: Original, copy: Path, folder: Path) -> Converted:
    """M2M100's SentencePiece model, vocabulary and language tokens."""
    added = _added(original)
    languages = dict(original.lang_code_to_id)
    vocabulary = _numbers(original.encoder, folder / "vocab.json")
    start = original.get_lang_token(original.src_lang)
    tokenizer, size = build(
        read_pieces(copy / "sentencepiece.bpe.model"),
        IdMapping(
            ids={**vocabulary, **original.lang_token_to_id, **added},
            added=_tokens(original, added),
            codes=None,
            unknown=str(original.unk_token),
            template=(start, "$A", str(original.eos_token)) if start in added else ("$A",),
            gap="",
        ),
        str(folder / "vocab.json"),
    )
    record = TokenizerRecord(
        source=SOURCE,
        special=special_tokens(original),
        languages=languages,
        language_layout="prefix",
        target_layout="forced",
        source_language=original.src_lang,
        target_language=original.tgt_lang or "",
        unknown_from=size,
        clean_up=bool(original.clean_up_tokenization_spaces),
    )
    return _proven(Converted(files={SOURCE: to_bytes(tokenizer)}, record=record), original, folder)


def _numbers(vocabulary: Mapping[str, int], path: Path) -> dict[str, int]:
    """A vocab.json whose ids are usable as they are."""
    limit = min(_LIMIT, len(vocabulary) + _WIDEST_GAP)
    for token, i in vocabulary.items():
        if type(i) is not int or not 0 <= i < limit:
            raise CheckpointError(f"{path}: {token!r} has the id {i!r}")
    return dict(vocabulary)


def _added(original: Original) -> dict[str, int]:
    return {token.content: i for i, token in original.added_tokens_decoder.items()}


def _tokens(original: Original, contents: Mapping[str, int]) -> tuple[tokenizers.AddedToken, ...]:
    """The added tokens, special exactly where transformers leaves them out of decoded text."""
    tokens = []
    for token in original.added_tokens_decoder.values():
        if token.content in contents:
            kept = {"lstrip": token.lstrip, "rstrip": token.rstrip}
            special = token.content in original.all_special_tokens
            tokens.append(
                tokenizers.AddedToken(
                    token.content, single_word=token.single_word, special=special, **kept
                )
            )
    return tuple(tokens)


def _proven(converted: Converted, original: Original, folder: Path) -> Converted:
    """Refuse a rebuilt tokenizer that differs from the original on the sample."""
    with temporary_folder() as temporary:
        for name, data in converted.files.items():
            (temporary / name).write_bytes(data)
        text = Tokenizer(temporary, converted.record)
        for line in SAMPLE:
            ids, expected = text.encode(line), original(line).input_ids
            if ids != expected:
                raise UnsupportedError(
                    f"{folder}: the tokenizer of {type(original).__name__} cannot be converted, "
                    f"{line!r} would become {ids} in place of {expected}"
                )
    return converted
