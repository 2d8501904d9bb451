"""What engines are built of and for: graphs, and sizes by the words of the graph contract."""

from __future__ import annotations

import dataclasses
import re

from seq2edge.bundle.engine_info import EngineSizes, Range
from seq2edge.bundle.manifest import GraphRecord, Manifest
from seq2edge.errors import OptionError
from seq2edge.model.dims import Dims

# How many of a row's largest logits an engine gives. Beam search takes two candidates a beam; some
# more, since filters forbid a few and a choice needs one that is clearly less likely.
TOP_K, TOP_K_OF_BEAM = 16, 4
LARGEST_TOP_K = 3840  # TensorRT's TopK knows no more


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildSizes:
    """What engines shall take, by default or as the user says; `fitted` makes it `EngineSizes`.

    `batch` inputs at once, each with up to `beams` beams; `source` and `prompt` tokens of an input,
    `capacity` tokens that the cache holds for a row, the prompt among them. The best of a range is
    what kernels are tuned for. The decoder gives the `top_k` largest logits of a row to choose
    from, 0 for all logits alone; None for what beams need.
    """

    batch: Range = (1, 1, 8)
    beams: int = 4
    source: Range = (1, 64, 512)
    prompt: Range = (1, 32, 128)
    capacity: int = 256
    top_k: int | None = None

    def __post_init__(self) -> None:
        """Raise OptionError for sizes that nothing can have."""
        for name in ("batch", "source", "prompt"):
            least, best, most = getattr(self, name)
            if not 1 <= least <= best <= most:
                raise OptionError(
                    f"{name}: {least}:{best}:{most} is no range, give least:best:most from 1 on"
                )
        for name in ("beams", "capacity"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}: {getattr(self, name)}, give 1 or more")
        if self.top_k is not None and (self.top_k == 1 or not 0 <= self.top_k <= LARGEST_TOP_K):
            raise OptionError(f"top_k: {self.top_k}, give 0, or 2 to {LARGEST_TOP_K}")
        if self.prompt[2] > self.capacity:
            raise OptionError(
                f"prompt: {self.prompt[2]} tokens do not fit a capacity of {self.capacity}"
            )

    def fitted(self, dims: Dims, listed: int | None = None) -> EngineSizes:
        """The same within what the model has positions and tokens for. Features have one length.

        `listed` are the tokens of its shortlist, where it has one.
        """
        capacity, source, prompt = self.capacity, self.source, self.prompt
        decoder, encoder = dims.decoder, dims.encoder
        top_k = max(TOP_K, TOP_K_OF_BEAM * self.beams) if self.top_k is None else self.top_k
        if decoder is not None and decoder.max_positions:
            capacity = min(capacity, decoder.max_positions)
            prompt = _within(prompt, decoder.max_positions)
        if dims.source_positions:
            source = (dims.source_positions,) * 3
        elif encoder is not None and encoder.max_positions:
            source = _within(source, encoder.max_positions)
        return EngineSizes(
            batch=self.batch,
            beams=self.beams,
            source=source,
            prompt=prompt,
            capacity=capacity,
            top_k=min(top_k, listed or dims.vocab, LARGEST_TOP_K) if decoder is not None else 0,
        )


def fitted_sizes(sizes: BuildSizes, manifest: Manifest) -> EngineSizes:
    """The sizes within what a bundle has positions and tokens for."""
    listed = None if manifest.shortlist is None else manifest.shortlist.size
    return sizes.fitted(manifest.dims, listed)


def engine_graphs(manifest: Manifest) -> tuple[GraphRecord, ...]:
    """What engines are built of: a quantized bundle's graphs for TensorRT, a float one's own."""
    flavour = "canonical" if manifest.precision == "float32" else "tensorrt"
    return tuple(graph for graph in manifest.graphs if graph.target == flavour)


def _within(sizes: Range, most: int) -> Range:
    least, best, largest = (min(size, most) for size in sizes)
    return least, best, largest


def parse_range(text: str) -> Range:
    """Least, best and most of "8", "1:8" or "1:4:8"; the best is the least where it is not said.

    Raises OptionError for another form.
    """
    if not re.fullmatch(r"[0-9]+(:[0-9]+){0,2}", text):
        raise OptionError(f"range: {text!r} is none, give 8, 1:8 or least:best:most such as 1:4:8")
    numbers = [int(part) for part in text.split(":")]
    if len(numbers) == 3:
        return numbers[0], numbers[1], numbers[2]
    return numbers[0], numbers[0], numbers[-1]
