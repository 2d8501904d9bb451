"""`lexicon.npz`: which tokens an answer to a source may have, a lexical shortlist."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
        frequent, copies, vocab = arrays["sizes"].tolist()
        offsets = np.concatenate(([0], np.cumsum(arrays["lengths"], dtype=np.int64)))
        ids = arrays["ids"].astype(np.int64)
    except (KeyError, ValueError, TypeError) as error:
        raise BundleError(f"{path}: not a lexical shortlist: {error!r}") from error
    dims = bundle.manifest.dims
    fits = 0 <= frequent <= vocab == dims.vocab and copies in (0, 1)
    fits = fits and len(offsets) - 1 <= (dims.source_vocab or dims.vocab)
    if not fits or ids.ndim != 1 or offsets[-1] != len(ids) or ids.max(initial=0) >= vocab:
        raise BundleError(f"{path}: not a lexical shortlist of this model's vocabularies")
    return Lexicon(
        frequent=frequent, offsets=offsets, ids=ids, copies=bool(copies), vocab=dims.vocab
    )
