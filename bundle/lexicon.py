"""`lexicon.npz`: which tokens an answer to a source may have, a lexical shortlist."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle.reference import read_reference, write_reference
from seq2edge.errors import BundleError

if TYPE_CHECKING:
    from seq2edge.bundle.folder import Bundle

LEXICON = "lexicon.npz"
LARGEST = 2**28  # bytes of its arrays


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lexicon:
    """The likely translations of every source token, and tokens that any text may need.

    Those of token t are `ids[offsets[t] : offsets[t + 1]]`; the first `frequent` ids of the target
    vocabulary come beside them, and where both sides share one, the source's own tokens (`copies`).
    `vocab` is the size of the target vocabulary. After Marian's lexical shortlists, and those of
    Devlin 2017.
    """

    frequent: int
    offsets: NDArray[np.int64]
    ids: NDArray[np.int64]
    copies: bool
    vocab: int

    def allowed(self, source: Sequence[int]) -> NDArray[np.bool_]:
        """Whether each token of the vocabulary may be in an answer to these (vocab,)."""
        allowed = np.zeros(self.vocab, dtype=np.bool_)
        allowed[: self.frequent] = True
        for token in set(source):
            if token + 1 < len(self.offsets):
                allowed[self.ids[self.offsets[token] : self.offsets[token + 1]]] = True
            if self.copies and token < self.vocab:
                allowed[token] = True
        return allowed


def write_lexicon(path: Path, lexicon: Lexicon) -> None:
    """Write a lexicon as `read_lexicon` reads it."""
    write_reference(
        path,
        {
            "sizes": np.array([lexicon.frequent, lexicon.copies, lexicon.vocab], dtype=np.int64),
            "lengths": np.diff(lexicon.offsets).astype(np.uint16),
            "ids": lexicon.ids.astype(np.uint32),
        },
    )


def read_lexicon(bundle: Bundle) -> Lexicon | None:
    """A bundle's lexicon, None where it has none.

    Raises BundleError for a file that is damaged or does not fit the model.
    """
    name = bundle.manifest.lexicon
    if name is None:
        return None
    path = bundle.file(name)
    arrays = read_reference(path, limit_bytes=LARGEST)
    try:
        sizes, lengths, ids = (_counts(arrays[name]) for name in ("sizes", "lengths", "ids"))
        frequent, copies, vocab = sizes.tolist()
    except (KeyError, ValueError) as error:
        raise BundleError(f"{path}: not a lexical shortlist: {error!r}") from error
    dims = bundle.manifest.dims
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    fits = 0 <= frequent <= vocab == dims.vocab and copies in (0, 1)
    fits = fits and len(lengths) <= (dims.source_vocab or dims.vocab)
    if not fits or offsets[-1] != len(ids) or ids.max(initial=0) >= vocab:
        raise BundleError(f"{path}: not a lexical shortlist of this model's vocabularies")
    return Lexicon(
        frequent=frequent, offsets=offsets, ids=ids, copies=bool(copies), vocab=dims.vocab
    )


def _counts(values: NDArray[Any]) -> NDArray[np.int64]:
    """Whole numbers in a row, none of them below zero or too large to be added up."""
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise ValueError(f"an array of shape {values.shape} and type {values.dtype}")
    if values.size and not 0 <= int(values.min()) <= int(values.max()) < 2**32:
        raise ValueError(f"numbers from {values.min()} to {values.max()}")
    return values.astype(np.int64)
