"""The one seam between decoding and execution, and the choice of who executes.

A backend runs graphs and owns the caches; the decode loop never learns where they live.
Axes: `batch` inputs, `rows` = batch * beams sequences being decoded, `new` tokens fed in one step.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from seq2edge.bundle import Bundle
from seq2edge.bundle.engine_info import SAMPLE_LENGTH
from seq2edge.errors import BackendError, CapacityError, EngineError
from seq2edge.model.dims import Dims

# Fastest first. By name, since backends stand on this module and are loaded when they are used.
BACKENDS = {
    "tensorrt": "seq2edge.runtime.backends.tensorrt:TensorRTBackend",
    "cuda": "seq2edge.runtime.backends.onnxruntime:OnnxRuntimeBackend",
    "cpu": "seq2edge.runtime.backends.onnxruntime:OnnxRuntimeBackend",
}

MOST_THREADS = 64  # or more on machines with many processors

Tokens: TypeAlias = NDArray[np.int64]  # (rows, new), right-padded to the longest row
Lengths: TypeAlias = NDArray[np.int64]  # (rows,) valid tokens of each row
# (batch, mels, frames), samples (batch, samples), or pixels (batch, channels, height, width)
Features: TypeAlias = NDArray[np.float32]
Logits: TypeAlias = NDArray[np.float32]  # (rows, vocab)
Memory: TypeAlias = Any  # what `encode` returns and `start` takes; opaque to everyone else


@dataclasses.dataclass(kw_only=True, eq=False, slots=True)  # frozen ones take longer to make
class Candidates:
    """The k largest logits of each row, found where they were computed.

    `values` and `ids` (rows, k) in any order, every id once in a row; whatever is not among them is
    at most the least of them. `log_sum_exp` (rows,) is that of all `vocab` logits, and not finite
    where one of them is NaN or infinite. `logits()` fetches all, as long as the answer of the
    step is valid. With `first_of_equals`, of equal logits those of the lowest ids are
    among them, the lowest first. `alignment` (rows, source) is what the scheduler takes from the
    cache (`AligningCache`), where a request asks for it.
    """

    values: NDArray[np.float32]
    ids: NDArray[np.int64]
    log_sum_exp: NDArray[np.float64]
    vocab: int
    logits: Callable[[], Logits]
    first_of_equals: bool = False
    alignment: NDArray[np.float32] | None = None

    def part(self, first: int, last: int) -> Candidates:
        """The rows from `first` on, up to `last`."""
        return Candidates(
            values=self.values[first:last],
            ids=self.ids[first:last],
            log_sum_exp=self.log_sum_exp[first:last],
            vocab=self.vocab,
            logits=lambda: self.logits()[first:last],
            first_of_equals=self.first_of_equals,
            alignment=None if self.alignment is None else self.alignment[first:last],
        )

    def repeat(self, times: int) -> Candidates:
        """Every row so many times, one after the other."""
        return Candidates(
            values=self.values.repeat(times, axis=0),
            ids=self.ids.repeat(times, axis=0),
            log_sum_exp=self.log_sum_exp.repeat(times),
            vocab=self.vocab,
            logits=lambda: self.logits().repeat(times, axis=0),
            first_of_equals=self.first_of_equals,
            alignment=None if self.alignment is None else self.alignment.repeat(times, axis=0),
        )


Answer: TypeAlias = Logits | Candidates


def all_logits(answer: Answer) -> Logits:
    """The logits (rows, vocab) of a step, fetched where its answer holds the largest alone."""
    return answer.logits() if isinstance(answer, Candidates) else answer


class Cache(Protocol):
    """Keys and values of the tokens seen so far, for a fixed order of rows."""

    @property
    def length(self) -> Lengths:
        """Valid tokens per row, (rows,)."""

    def reorder(self, rows: NDArray[np.int64]) -> None:
        """Row i goes on from the old row `rows[i]`; `len(rows)` may differ from before.

        The rows of an input stay beside each other: row r belongs to input r // (rows / inputs),
        and a cache starts with one row for each input.
        """

    def rewind(self, length: int) -> None:
        """Forget what came after so many tokens of each row, which all rows have."""


class RunningCache(Cache, Protocol):
    """A cache whose inputs come and go while others are decoded."""

    def keep(self, inputs: NDArray[np.int64]) -> None:
        """Input i is the old `inputs[i]` from now on, with its rows and its encoder memory.

        The others leave.
        """

    def join(self, other: Any) -> None:
        """The inputs of another cache of this backend, of as many rows each, come behind these.

        The other one may not be used any more.
        """


class AligningCache(Cache, Protocol):
    """A cache that also tells what each answered token attends to."""

    @property
    def alignment(self) -> NDArray[np.float32]:
        """Weights over the source's positions, (lines, source), a line a line of the last answer.

        Of speech (lines, heads, source), each head's own. They sum to 1 and are 0 behind each
        source. Valid until the cache's next step.
        """


@runtime_checkable
class SavedCache(Cache, Protocol):
    """A cache whose rows can be read, and that of one row written."""

    def read(self, row: int = 0) -> dict[str, NDArray[Any]]:
        """Keys and values of each layer, (kv_heads, length, head_dim)."""

    def write(self, values: Mapping[str, NDArray[Any]], length: int) -> None:
        """Hold in its one row what `read` gave. Raises ValueError for what does not fit."""


class Backend(Protocol):
    """Runs a bundle's graphs. A backend takes the memories and caches that it made itself."""

    name: str
    capacity: int | None  # tokens that a row's cache can hold at most; None: any number
    rows: int | None  # sequences that are decoded at a time at most; None: any number
    running: bool  # whether its caches are of the kind `RunningCache`
    verifies: bool  # whether `step` answers several tokens of a row
    aligns: bool  # whether its caches are of the kind `AligningCache`

    def encode(self, source: Tokens | Features, source_length: Lengths) -> Memory:
        """Cross-attention keys and values of a padded batch of sources, projected once.

        `source_length` (batch,) counts what of each is no padding: ids, encoder positions of
        features and pixels, or samples.
        """

    def start(self, memory: Memory | None, rows: int, capacity: int | None) -> Cache:
        """An empty cache; None lets it grow, past a given `capacity` it raises CapacityError."""

    def step(self, tokens: Tokens, new_length: Lengths, cache: Any, positions: int = 1) -> Answer:
        """Append `new_length[r]` tokens to row r; what follows its last one.

        Logits (rows, vocab), or the largest of them where the backend finds these by itself. Valid
        until the cache's next step. A backend that `verifies` also answers so many of the last
        tokens of a cache of one row, (positions, vocab), in their order.
        """

    def pool(
        self, source: Tokens, source_length: Lengths, token_types: Tokens | None = None
    ) -> NDArray[np.float32]:
        """Logits (batch, labels) or embeddings (batch, width) of an encoder-only model.

        Of one that answers each token logits (batch, source, values), of padding any.

        `token_types` (batch, source) tell the texts of a pair apart, where its graph reads them;
        without them all are 0.
        """


def open_backend(
    bundle: Bundle, *, device: str = "auto", threads: int | None = None, graphs: str | None = None
) -> tuple[Backend, str]:
    """A backend for the device, and why it was taken. `auto` tries the fastest device first.

    Engines of TensorRT are tried where the bundle has some and `graphs` names no others; `threads`
    is for what runs without them. Raises BackendError with every device's reason when none works
    here, and for more threads than any machine can use; EngineError for an engine that was asked
    for and does not work.
    """
    if device != "auto":
        return _open(bundle, device, threads, graphs), f"{device}: asked for"
    refusals: list[str] = []
    unsaid: list[str] = []
    engines = bool(bundle.manifest.engines) and graphs is None
    for name in BACKENDS if engines else [name for name in BACKENDS if name != "tensorrt"]:
        try:
            backend = _open(bundle, name, None if name == "tensorrt" else threads, graphs)
        except (BackendError, EngineError) as error:
            # Nobody wonders why the GPU is not used where there is none.
            (unsaid if name == "cuda" and driver_error() else refusals).append(
                f"{name}: not used, {error}"
            )
            continue
        return backend, "; ".join([*refusals, f"{name}: works"])
    raise BackendError("; ".join([*unsaid, *refusals]))


def check_lengths(name: str, lengths: Lengths, most: int) -> None:
    """Raise BackendError for lengths below 0 or above `most`: kernels go by them unasked."""
    numbers = lengths.tolist()  # of a few, faster than numpy
    least, longest = min(numbers, default=0), max(numbers, default=0)
    if least < 0 or longest > most:
        wrong = least if least < 0 else longest
        raise BackendError(f"{name}: {wrong}, it is 0 to {most}")


def encoder_feed(
    dims: Dims, source: Tokens | Features, source_length: Lengths
) -> tuple[dict[str, NDArray[Any]], Lengths]:
    """What an encoder's graph takes of what `Backend.encode` is given, and the positions of each.

    Raises BackendError for lengths that the source does not have.
    """
    if dims.samples is None:
        check_lengths("source_length", source_length, dims.source_positions or source.shape[1])
        return {dims.source_name: source, "source_length": source_length}, source_length
    check_lengths(SAMPLE_LENGTH, source_length, source.shape[1])
    positions: Lengths = dims.positions_of(np.asarray(source_length))
    if np.min(positions, initial=1) < 1:
        raise BackendError(f"samples: {np.min(source_length)}, an encoder's position needs more")
    feed = {dims.source_name: source, "source_length": positions, SAMPLE_LENGTH: source_length}
    return feed, positions


def check_capacity(needed: int, limit: int | None) -> None:
    """Raise CapacityError for more tokens of a row than a cache was started for."""
    if limit is not None and needed > limit:
        raise CapacityError(
            f"capacity: {needed} tokens do not fit the {limit} that were set; "
            "set a larger capacity or none"
        )


def driver_error() -> str | None:
    """Why no NVIDIA driver can be used here. TensorRT's own libraries may crash without one."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return str(error)
    return None


def _open(bundle: Bundle, device: str, threads: int | None, graphs: str | None) -> Backend:
    if device not in BACKENDS:
        raise BackendError(f"device: {device!r} is unknown, known: auto, {', '.join(BACKENDS)}")
    processors = os.cpu_count() or 1
    most = max(MOST_THREADS, 4 * processors)
    if threads is not None and not 1 <= threads <= most:
        raise BackendError(f"threads: {threads}, 1 to {most} work with {processors} processors")
    module, attribute = BACKENDS[device].split(":")
    maker = getattr(importlib.import_module(module), attribute)
    backend: Backend = maker(bundle, device=device, target=graphs, threads=threads)
    return backend
