"""Marian's binary lexical shortlists (`lex.50.50.enpt.s2t.bin`), little-endian.

magic u64 | checksum u64 | frequent u64 | best u64 | offsets n u64 | ids m u64 | n offsets as u64 |
m ids as u32. The translations of source token t are ids[offsets[t]:offsets[t + 1]], `best` at most;
besides them the `frequent` first ids of the target vocabulary may be written after any source.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from seq2edge.bundle.lexicon import Lexicon
from seq2edge.checkpoints.importers.binary import BinaryReader
from seq2edge.errors import CheckpointError

MAGIC = 0xF11A48D5013417F5


def read_lexicon(path: Path, *, source: int, target: int, shared: bool) -> Lexicon:
    """Read a shortlist of vocabularies of these sizes. Raises CheckpointError naming the file."""
    reader = BinaryReader(path)
    magic, _, frequent, _, words, count = (reader.number("Q") for _ in range(6))
    if magic != MAGIC:
        raise CheckpointError(f"{path}: not a binary lexical shortlist of Marian")
    if words != source + 1 or 48 + 8 * words + 4 * count != reader.size:
        raise CheckpointError(
            f"{path}: {words} offsets and {count} ids in {reader.size} bytes, the vocabulary has "
            f"{source} tokens; it is damaged or belongs to another model"
        )
    offsets = reader.array("<u8", (words,)).astype(np.int64)
    ids = reader.array("<u4", (count,)).astype(np.int64)
    lengths = np.diff(offsets)
    if offsets[0] != 0 or offsets[-1] != count or lengths.min() < 0:
        raise CheckpointError(f"{path}: offsets that do not ascend to {count}; it is damaged")
    if count and ids.max() >= target:
        raise CheckpointError(
            f"{path}: the id {ids.max()}, the model writes {target} tokens; it belongs to another"
        )
    return Lexicon(
        frequent=min(int(frequent), target), offsets=offsets, ids=ids, copies=shared, vocab=target
    )
