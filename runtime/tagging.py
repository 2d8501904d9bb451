"""Classes of tokens as entities: spans of a text with a label and a score.

Labels may begin with B- (an entity begins here) or I- (it goes on); without, all go on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from seq2edge.errors import OptionError
from seq2edge.runtime.encoders import pool_each
from seq2edge.runtime.likelihood import probabilities

if TYPE_CHECKING:
    from seq2edge.runtime.tokenizer import EncodedText, Tokenizer
    from seq2edge.runtime.understanding import Understanding

Aggregation: TypeAlias = Literal["none", "simple", "first", "average", "max"]
AGGREGATIONS = ("none", "simple", "first", "average", "max")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entity:
    """What a part of a text is: `text[start:end]`, which the tokenizer writes as `word`.

    The score is the mean probability of its tokens' labels. `label` has no B- or I-, but where
    nothing was aggregated.
    """

    label: str
    score: float
    word: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Piece:
    """A token or a word, and how likely each label is (labels,)."""

    word: str
    scores: NDArray[np.float32]
    start: int
    end: int
    goes_on: bool  # a word that began before


def tag(
    model: Understanding,
    texts: Sequence[str],
    aggregation: str,
    ignore: Collection[str],
    overlap: int | None,
    batch: int,
) -> list[list[Entity]]:
    """See `Model.tag`."""
    if aggregation not in AGGREGATIONS:
        known = ", ".join(AGGREGATIONS)
        raise OptionError(f"aggregation: {aggregation!r} is unknown, known: {known}")
    if overlap is not None and aggregation == "none":
        raise OptionError("overlap: parts of a text are put together as entities; aggregate them")
    parts = [_parts(model, text, overlap) for text in texts]
    logits = iter(pool_each(model, [part for each in parts for part in each], batch))
    return [
        _together(
            [
                entity
                for part in each
                for entity in _entities(model, text, part, next(logits), aggregation)
                if entity.label not in ignore
            ],
            len(each),
        )
        for text, each in zip(texts, parts, strict=True)
    ]


def _parts(model: Understanding, text: str, overlap: int | None) -> list[EncodedText]:
    longest = model.text_positions
    if overlap is None or longest is None:
        return [model.read_text(text)]
    return list(model.tokenizer.windows(text, longest=longest, overlap=overlap))


def _entities(
    model: Understanding,
    text: str,
    part: EncodedText,
    logits: NDArray[np.float32],
    aggregation: str,
) -> Iterator[Entity]:
    """Those of one text, or of a part of it."""
    labels, tokenizer = model.bundle.manifest.labels, model.tokenizer
    pieces = list(_pieces(tokenizer, text, part, probabilities(logits, "single_label")))
    if aggregation not in ("none", "simple"):
        pieces = [_word(tokenizer, word, aggregation) for word in _words(pieces)]
    tagged = [(labels[int(piece.scores.argmax())], piece) for piece in pieces]
    if aggregation == "none":
        for label, piece in tagged:
            yield _entity(label, [piece], piece.word)
        return
    for group in _groups(tagged):
        label = group[0][0].split("-", 1)[-1]
        run = [piece for _, piece in group]
        yield _entity(label, run, tokenizer.join([piece.word for piece in run]))


def _pieces(
    tokenizer: Tokenizer, text: str, part: EncodedText, scores: NDArray[np.float32]
) -> Iterator[_Piece]:
    """The tokens of the text itself."""
    unknown = tokenizer.record.special.unk
    for token, of, (start, end), values in zip(
        part.tokens, part.texts, part.spans, scores, strict=True
    ):
        if of is None:
            continue
        spelled = text[start:end]
        if tokenizer.marks_pieces:
            goes_on = len(token) != len(spelled)
        else:
            goes_on = start > 0 and " " not in text[start - 1 : start + 1]
        known = token != unknown
        yield _Piece(
            word=token if known else spelled,
            scores=values,
            start=start,
            end=end,
            goes_on=goes_on and known,
        )


def _words(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    """The tokens of each word."""
    word: list[_Piece] = []
    for piece in pieces:
        if word and not piece.goes_on:
            yield word
            word = []
        word.append(piece)
    if word:
        yield word


def _word(tokenizer: Tokenizer, pieces: Sequence[_Piece], aggregation: str) -> _Piece:
    """A word has one label: its first token's, the likeliest token's, or by the mean of all."""
    chosen = pieces[0].scores
    if aggregation == "max":
        chosen = max((piece.scores for piece in pieces), key=lambda scores: float(scores.max()))
    elif aggregation == "average":
        chosen = np.mean([piece.scores for piece in pieces], axis=0)
    return _Piece(
        word=tokenizer.join([piece.word for piece in pieces]),
        scores=chosen,
        start=pieces[0].start,
        end=pieces[-1].end,
        goes_on=False,
    )


def _groups(tagged: Sequence[tuple[str, _Piece]]) -> Iterator[list[tuple[str, _Piece]]]:
    """Neighbours of one label, of which none but the first begins."""
    group: list[tuple[str, _Piece]] = []
    for label, piece in tagged:
        if group and (label.startswith("B-") or _tag(label) != _tag(group[-1][0])):
            yield group
            group = []
        group.append((label, piece))
    if group:
        yield group


def _tag(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label


def _entity(label: str, pieces: Sequence[_Piece], word: str) -> Entity:
    return Entity(
        label=label,
        score=float(np.mean([piece.scores.max() for piece in pieces])),
        word=word,
        start=pieces[0].start,
        end=pieces[-1].end,
    )


def _together(entities: list[Entity], parts: int) -> list[Entity]:
    """Of those that overlap, because two parts of the text do, the longest, then the likeliest."""
    if parts < 2:
        return entities
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda each: each.start):
        if not kept or not kept[-1].start <= entity.start < kept[-1].end:
            kept.append(entity)
        elif _weight(entity) > _weight(kept[-1]):
            kept[-1] = entity
    return kept


def _weight(entity: Entity) -> tuple[int, float]:
    return entity.end - entity.start, entity.score
