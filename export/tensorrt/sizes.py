"""The sizes that engines are built for, by the words of the graph contract."""

from __future__ import annotations

import dataclasses
import re
from typing import TypeAlias

from seq2edge.errors import OptionError
from seq2edge.model.dims import Dims

Range: TypeAlias = tuple[int, int, int]  # least, best, most

# How many of a row's largest logits an engine gives. Beam search takes two candidates a beam; some
# more, since filters forbid a few and a choice needs one that is clearly less likely.
TOP_K, TOP_K_OF_BEAM = 16, 4
LARGEST_TOP_K = 3840  # TensorRT's TopK knows no more


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildSizes:
    """What an engine's inputs may be.

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

    def fitted(self, dims: Dims) -> BuildSizes:
        """The same within what the model has positions and tokens for. Features have one length."""
        top_k = max(TOP_K, TOP_K_OF_BEAM * self.beams) if self.top_k is None else self.top_k
        top_k = min(top_k, dims.vocab, LARGEST_TOP_K) if dims.decoder is not None else 0
        changes: dict[str, Range | int] = {"top_k": top_k}
        decoder, encoder = dims.decoder, dims.encoder
        if decoder is not None and decoder.max_positions:
            changes["capacity"] = min(self.capacity, decoder.max_positions)
            changes["prompt"] = _within(self.prompt, decoder.max_positions)
        if dims.mels:
            changes["source"] = (dims.frames // 2,) * 3
        elif encoder is not None and encoder.max_positions:
            changes["source"] = _within(self.source, encoder.max_positions)
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


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
