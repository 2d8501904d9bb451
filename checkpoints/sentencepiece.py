"""A SentencePiece model with somebody else's ids, as one `tokenizers` pipeline.

Marian and M2M100 cut text with a SentencePiece model but number the pieces in a vocab.json, which
may know fewer pieces and may know others. The pipeline keeps the model's pieces and scores (Kudo,
"Subword Regularization", 2018; Sennrich et al., "Neural Machine Translation of Rare Words with
Subword Units", 2016) and puts every piece at its own id:

1. A token that the model cannot produce is stored behind `HIDDEN`, so that it is never chosen while
   encoding; decoding takes the mark off again.
2. A piece without an id gets one past the vocabulary; the runtime makes it the unknown token.
3. A language code at the beginning, `>>fra<<`, becomes one private character, so that it is found
   there and nowhere else.

For example, a model that knows the pieces `▁the`, `▁cat`, `s` and a vocab.json of `{"</s>": 0,
"<unk>": 1, ">>fra<<": 2, "▁the": 3, "▁cat": 4, "qu": 5}` with the added tokens `</s>` and `<unk>`:

    id  entry       why
    0   </s>        an added token, cut out of the text before
    1   <unk>
    2   ▁C          C is the private character that `>>fra<<` becomes (rule 3)
    3   ▁the        with the model's score
    4   ▁cat
    5   Hqu         H is `HIDDEN`: the model has no such piece, decoding gives `qu` (rule 1)
    6   s           a piece without an id: past the vocabulary, so the unknown token (rule 2)
    7   ▁S          a code that the vocabulary does not know, `>>xx<<`: the same

">>fra<< the cats" is 2 3 4 6, of which the runtime makes 2 3 4 1.

Text that the normalizer turns into a special token (full-width `</s>`) is then taken for it.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors

from seq2edge.checkpoints.importers.json_file import LARGEST
from seq2edge.errors import CheckpointError, UnsupportedError, foreign_errors
from seq2edge.files.storage import read_regular
from seq2edge.runtime.tokenizer import HIDDEN

SPACE = "\u2581"
_STRANGE = "\ue001"  # a language code that the vocabulary does not know
_FIRST_CODE = 0xF0000
_PRIVATE = f"[{HIDDEN}{_STRANGE}\U000f0000-\U000ffffd]"
_HARMLESS = "\uf8ff"  # as private and as unknown, but it means nothing here
_UNIGRAM, _BPE = 1, 2
_NORMAL, _USER_DEFINED, _UNUSED, _BYTE = 1, 4, 5, 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pieces:
    """What of a SentencePiece model the pipeline needs; `scores` holds what it can produce."""

    scores: Mapping[str, float]
    bpe: bool
    charsmap: bytes
    bytes_too: bool  # what no piece is for becomes its bytes, each a token like <0x41>
    composes: bool
    dummy_prefix: bool
    trim: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdMapping:
    """The ids of pieces and tokens, and how text is wrapped.

    `added` are cut out of the text before anything else. `codes` are tokens that count only at the
    beginning, where anything of their form is one token; None: no such rule. `gap` follows a
    special token in decoded text.
    """

    ids: Mapping[str, int]
    added: tuple[AddedToken, ...]
    codes: tuple[str, ...] | None
    unknown: str
    template: tuple[str, ...]
    gap: str

    @property
    def marks(self) -> dict[str, str]:
        """The private character of each code."""
        return {code: chr(_FIRST_CODE + i) for i, code in enumerate(self.codes or ())}


def read_numbers(path: Path) -> dict[str, int]:
    """The model's own ids of all its pieces. Raises CheckpointError naming the file."""
    return {piece.piece: i for i, piece in enumerate(_parse(path).pieces)}


def read_pieces(path: Path, *, byte_fallback: bool = False) -> Pieces:
    """Read a SentencePiece model. Raises CheckpointError or UnsupportedError naming the file.

    With `byte_fallback` it may be one that cuts what it has no piece for into bytes.
    """
    proto = _parse(path)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    for setting, bad in (
        (f"model type {trainer.model_type}", trainer.model_type not in (_UNIGRAM, _BPE)),
        ("byte_fallback", trainer.byte_fallback and not byte_fallback),
        ("treat_whitespace_as_suffix", trainer.treat_whitespace_as_suffix),
        ("unescaped whitespace", not normalizer.escape_whitespaces),
    ):
        if bad:
            raise UnsupportedError(f"{path}: {setting} cannot be converted with other ids")
    bpe = trainer.model_type == _BPE
    return Pieces(
        scores=_scores(proto, path, bpe=bpe),
        bpe=bpe,
        charsmap=normalizer.precompiled_charsmap,
        bytes_too=trainer.byte_fallback,
        composes="nfkc" in normalizer.name,
        dummy_prefix=normalizer.add_dummy_prefix,
        trim=normalizer.remove_extra_whitespaces,
    )


def build(pieces: Pieces, mapping: IdMapping, subject: str) -> tuple[Tokenizer, int]:
    """The pipeline, and the first id that stands for no embedding; `subject` names errors."""
    lead = SPACE if pieces.dummy_prefix else ""
    entries, size = _entries(pieces, mapping, lead, subject)
    tokenizer = Tokenizer(_model(pieces, entries, mapping))
    tokenizer.normalizer = _normalizer(pieces, mapping)
    tokenizer.decoder = _decoder(pieces, mapping, lead)
    tokenizer.add_tokens([_raw(token) for token in mapping.added])
    special = [(name, mapping.ids[name]) for name in mapping.template if name != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=list(mapping.template), special_tokens=special
    )
    return tokenizer, size


def _parse(path: Path) -> Any:
    # Generated code without types.
    format_: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    proto = format_.ModelProto()
    with foreign_errors(CheckpointError, f"{path}: not a SentencePiece model"):
        proto.ParseFromString(read_regular(path, LARGEST, CheckpointError))
    if not proto.pieces:
        raise CheckpointError(f"{path}: not a SentencePiece model: it has no pieces")
    return proto


def _scores(proto: Any, path: Path, *, bpe: bool) -> dict[str, float]:
    """What the model can produce, with the score of each piece."""
    normal = {p.piece: p.score for p in proto.pieces if p.type == _NORMAL}
    if not normal:
        raise CheckpointError(f"{path}: no ordinary pieces")
    defined = [p.piece for p in proto.pieces if p.type == _USER_DEFINED]
    unused = [p.piece for p in proto.pieces if p.type == _UNUSED]
    if bpe and (defined or unused):
        raise UnsupportedError(
            f"{path}: a BPE model with the reserved piece {(defined + unused)[0]!r}"
        )
    # A user-defined piece outbids everything, as in SentencePiece's own search. The library finds
    # bytes by their names: a text that says <0x41> is an A for it.
    best, worst = max(normal.values()), min(normal.values())
    single = {p.piece: worst for p in proto.pieces if p.type == _BYTE}
    return {**normal, **single, **{piece: len(piece) * best - 0.1 for piece in defined}}


def _entries(
    pieces: Pieces, mapping: IdMapping, lead: str, subject: str
) -> tuple[list[tuple[str, float]], int]:
    """Pieces and scores by id (rules 1 to 3), and the first id that is past the vocabulary."""
    size = max(mapping.ids.values()) + 1
    entries = [(f"{HIDDEN}{HIDDEN}{i}", 0.0) for i in range(size)]
    exact = {token.content for token in mapping.added}
    marks = mapping.marks
    taken: dict[int, str] = {}
    for token, i in mapping.ids.items():
        if taken.setdefault(i, token) != token:
            raise CheckpointError(f"{subject}: id {i} for both {taken[i]!r} and {token!r}")
        if token in marks:
            entries[i] = (lead + marks[token], 100.0)
        elif token in pieces.scores:
            entries[i] = (token, pieces.scores[token])
        elif token in exact:
            entries[i] = (token, 0.0)
        else:
            entries[i] = (HIDDEN + token, 0.0)
    rest = {piece: score for piece, score in pieces.scores.items() if piece not in mapping.ids}
    if mapping.codes is not None:
        rest[lead + _STRANGE] = 100.0
        if pieces.bpe and lead:  # what a merge is made of
            rest.update(dict.fromkeys((_STRANGE, *marks.values()), 0.0))
    return [*entries, *rest.items()], size


def _model(
    pieces: Pieces, entries: list[tuple[str, float]], mapping: IdMapping
) -> models.Unigram | models.BPE:
    """The library's model, Unigram or BPE, over these entries."""
    if not pieces.bpe:
        return models.Unigram(
            entries, unk_id=mapping.ids[mapping.unknown], byte_fallback=pieces.bytes_too
        )
    vocabulary = {piece: i for i, (piece, _) in enumerate(entries)}
    marks = (_STRANGE, *mapping.marks.values())
    first = [(SPACE, mark) for mark in marks if SPACE + mark in vocabulary and SPACE in vocabulary]
    return models.BPE(
        vocab=vocabulary,
        merges=first + _merges(pieces.scores),
        unk_token=mapping.unknown,
        fuse_unk=True,
    )


def _merges(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two others, the best scored piece first."""
    return [
        (piece[:i], piece[i:])
        for piece in sorted(scores, key=lambda piece: -scores[piece])
        for i in range(1, len(piece))
        if piece[:i] in scores and piece[i:] in scores
    ]


def _normalizer(pieces: Pieces, mapping: IdMapping) -> normalizers.Normalizer:
    """Codes at the beginning become their marks; then the model's own normalization."""
    # `\A` is the beginning of the text or of what follows an added token, as in transformers.
    steps: list[normalizers.Normalizer] = [normalizers.Replace(Regex(_PRIVATE), _HARMLESS)]
    for code, mark in mapping.marks.items():
        steps.append(normalizers.Replace(Regex(rf"\A{re.escape(code)}"), f"{mark} "))
    if mapping.codes is not None:
        steps.append(normalizers.Replace(Regex(r"\A>>[\s\S]*?<<"), f"{_STRANGE} "))
    if pieces.composes:  # `Precompiled` maps only the first of several combining marks
        steps.append(normalizers.NFC())
    if pieces.charsmap:
        steps.append(normalizers.Precompiled(pieces.charsmap))
    if pieces.trim:
        steps.append(normalizers.Replace(Regex(r" {2,}"), " "))
        steps.append(normalizers.Replace(Regex(rf"\A +|[ {SPACE}]+\z"), ""))
    if pieces.dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])


def _decoder(pieces: Pieces, mapping: IdMapping, lead: str) -> decoders.Decoder:
    """The marks and the lead come off again, and a gap follows special tokens."""
    specials = [token.content for token in mapping.added if token.special]
    return decoders.Sequence(
        [
            decoders.Replace(HIDDEN, ""),
            *(decoders.Replace(lead + mark, code) for code, mark in mapping.marks.items()),
            *((decoders.ByteFallback(),) if pieces.bytes_too else ()),
            decoders.Fuse(),
            *(
                decoders.Replace(Regex(f"{re.escape(token)}{SPACE}*"), token + mapping.gap)
                for token in specials
            ),
            decoders.Replace(SPACE, " "),
            decoders.Replace(Regex(r"\A +| +\z"), ""),
        ]
    )


def _raw(token: AddedToken) -> AddedToken:
    return AddedToken(
        token.content,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        single_word=token.single_word,
        normalized=False,
        special=token.special,
    )
