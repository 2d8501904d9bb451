"""What a backend is tried with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from seq2edge.errors import InputError
from seq2edge.model.dims import Dims
from seq2edge.runtime.parity import TOLERANCES
from seq2edge.runtime.sequences import Source

LENGTHS = (4, 7, 3)  # of the prompts that are drawn
SOURCES = (9, 3, 6)  # and of the sources


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Three inputs or more that a backend is tried with; raises InputError for others.

    `prompts` are ids that the decoder reads, at least three of each input, not all equally many; an
    encoder-only model has none. `sources` are what the encoder reads: ids, or features (mels,
    frames), samples (length,) or pixels of `positions` encoder positions. An input is spread over
    `beams` rows, which come to hold 12 tokens more than their prompt. A logit may differ by
    `tolerance` where it is computed in another way; the tokens chosen may not, so none should be
    nearly as likely.
    """

    prompts: Sequence[Sequence[int]] = ()
    sources: Sequence[Source] | None = None
    positions: int = 0
    beams: int = 2
    tolerance: float = TOLERANCES["float32"].absolute

    def __post_init__(self) -> None:
        inputs = self.prompts or self.sources or ()
        if len(inputs) < 3 or (self.sources is not None and len(self.sources) != len(inputs)):
            raise InputError("examples: needs three inputs, with a prompt or a source or both each")
        lengths = [len(prompt) for prompt in self.prompts]
        if lengths and (min(lengths) < 3 or len(set(lengths)) < 2):
            raise InputError(f"prompts: {lengths} tokens, needs three at least, of some more")
        if self.beams < 2:
            raise InputError(f"beams: {self.beams}, needs two at least")


def examples_of(
    dims: Dims, *, beams: int = 2, tolerance: float = Examples.tolerance, seed: int = 0
) -> Examples:
    """Three inputs drawn at random for a model of these sizes."""
    rng = np.random.default_rng(seed)
    sources: list[Source] | None = None
    if dims.source_shape:
        sources = [rng.standard_normal(dims.source_shape, dtype=np.float32) for _ in SOURCES]
    elif dims.samples is not None:
        counts = map(dims.samples.length, SOURCES)
        sources = [rng.standard_normal(count, dtype=np.float32) for count in counts]
    elif dims.encoder is not None:
        vocab = dims.source_vocab or dims.vocab
        sources = [rng.integers(0, vocab, length).tolist() for length in SOURCES]
    lengths = LENGTHS if dims.decoder is not None else ()
    return Examples(
        prompts=[rng.integers(0, dims.vocab, length).tolist() for length in lengths],
        sources=sources,
        positions=dims.source_positions,
        beams=beams,
        tolerance=tolerance,
    )
