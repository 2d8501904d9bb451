"""What the sidecar of an engine says: closed, versioned records, JSON beside the plan.

A plan can only be opened by the release of the library that made it, on the device that it was
made for. The sidecar says all that must be known before: which those are, the sizes the engine was
built for, its inputs and outputs, and what the builder reported.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias

from seq2edge.bundle.manifest import Role, TensorRecord, UtcTime
from seq2edge.errors import BundleError
from seq2edge.files.records import RecordError, decode, parse_json, record_errors
from seq2edge.files.storage import Sha256, file_errors

FORMAT: Final = 2  # 1 knew no tokens chosen on the device
LARGEST = 2**20  # bytes of a sidecar

Library: TypeAlias = Literal["tensorrt", "tensorrt_rtx"]
Form: TypeAlias = Literal["masked", "lowered"]
Range: TypeAlias = tuple[int, int, int]  # least, best, most
PROFILES: Mapping[str, tuple[str, ...]] = {"encoder": ("encoder",), "decoder": ("prefill", "step")}
LOG_SUM_EXP, TOP_VALUES, TOP_IDS = "log_sum_exp", "top_values", "top_ids"
ALIGNMENT = "alignment"  # a decoder's output, where it was asked for at export
SEGMENTS = "token_types"  # an encoder's input: which text of a pair each token is of
SAMPLE_LENGTH = "sample_length"  # an encoder's input: how many samples of each clip count
LAST_POSITIONS = "last_positions"  # an input: how many of a row's last tokens a decoder answers
LINES = "lines"  # the symbol of rows * last_positions


def top_outputs(k: int) -> tuple[TensorRecord, ...]:
    """What a decoder's engine gives beside its logits to choose from; nothing where k is 0."""
    if not k:
        return ()
    return (
        TensorRecord(name=LOG_SUM_EXP, dtype="float32", shape=("rows",)),
        TensorRecord(name=TOP_VALUES, dtype="float32", shape=("rows", k)),
        TensorRecord(name=TOP_IDS, dtype="int64", shape=("rows", k)),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineSizes:
    """What the engine's inputs may be.

    `batch` inputs at once, each with up to `beams` beams; `source` and `prompt` tokens of an input
    and `capacity` tokens that the cache holds for a row. The decoder gives the `top_k` largest
    logits of a row apart (`top_outputs`), or its logits alone where that is 0. An engine without
    the axis keeps what the others of its bundle were built for.
    """

    batch: Range
    beams: int
    source: Range
    prompt: Range
    capacity: int
    top_k: int

    def __post_init__(self) -> None:
        """Raise BundleError for sizes that nothing can have."""
        for name in ("batch", "source", "prompt"):
            sizes = getattr(self, name)
            if len(sizes) != 3 or not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
                raise BundleError(f"{name}: {list(sizes)} is no range, it needs 1 <= least <= most")
        if self.beams < 1 or self.capacity < 1:
            raise BundleError(f"beams {self.beams}, capacity {self.capacity}: both are 1 or more")
        if self.top_k < 0:
            raise BundleError(f"top_k: {self.top_k}, it is 0 or more")

    @property
    def rows(self) -> int:
        """The most rows that a step may have."""
        return self.batch[2] * self.beams


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """One engine.

    `library` and `release` alone can open it; `target` is what it was built for. `form` says which
    graph it was built from: masked, whose caches are updated in place, or lowered to older
    operators, which copies them. `profiles` are the names in the order of their indices, and
    `fused_attentions`, `cache_updates` and `cache_copies` (caches that are copied whole before they
    are written) count for each of them. `products` says how many products with a weight there are
    of which types ("Half x Int4"). `graph_sha256` is of the bundle's graph and weights,
    `plan_sha256` the engine's own.
    """

    format: Literal[2] = FORMAT
    library: Library
    release: str
    target: str
    role: Role
    form: Form
    precision: str
    sizes: EngineSizes
    profiles: tuple[str, ...]
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    graph_sha256: Sha256
    plan_sha256: Sha256
    layers: int
    fused_attentions: tuple[int, ...]
    cache_updates: tuple[int, ...]
    cache_copies: tuple[int, ...]
    products: Mapping[str, int]
    build_seconds: float
    build_peak_bytes: int | None = None
    created: UtcTime

    def __post_init__(self) -> None:
        """Raise BundleError where the parts contradict each other."""
        if self.profiles != PROFILES[self.role]:
            expected = ", ".join(PROFILES[self.role])
            actual = ", ".join(self.profiles)
            raise BundleError(f"profiles: {actual}; the {self.role} has {expected}")
        for name in ("fused_attentions", "cache_updates", "cache_copies"):
            if len(getattr(self, name)) != len(self.profiles):
                raise BundleError(f"{name}: needs a number for each of {', '.join(self.profiles)}")
        expected_top = top_outputs(self.sizes.top_k if self.role == "decoder" else 0)
        names = {LOG_SUM_EXP, TOP_VALUES, TOP_IDS}
        actual_top = {tensor for tensor in self.outputs if tensor.name in names}
        if actual_top != set(expected_top):
            raise BundleError(
                f"outputs: {', '.join(sorted(map(_text, actual_top))) or 'logits alone'}; top_k "
                f"{self.sizes.top_k} means {', '.join(map(_text, expected_top)) or 'logits alone'}"
            )

    @classmethod
    def from_bytes(cls, data: bytes, subject: str) -> EngineInfo:
        """The sidecar from its bytes; `subject` names the file in errors.

        Raises BundleError for anything but exactly a sidecar of this format.
        """
        with record_errors(subject, BundleError):
            values = parse_json(data)
            version = values.get("format") if isinstance(values, dict) else None
            if type(version) is int and version != FORMAT:
                raise RecordError(f"format {version}, this version reads {FORMAT}; build it again")
            info: EngineInfo = decode(cls, values)
        return info

    def to_bytes(self) -> bytes:
        """The sidecar as UTF-8 JSON. Raises BundleError when it would not be read back."""
        try:
            text = json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise BundleError(f"engine: a value is not JSON, {error}") from error
        data = f"{text}\n".encode()
        EngineInfo.from_bytes(data, "engine")
        return data


def _text(tensor: TensorRecord) -> str:
    return f"{tensor.name} {tensor.dtype} {list(tensor.shape)}"


def read_engine_info(path: Path) -> EngineInfo:
    """The sidecar of a file. Raises BundleError when it is missing, damaged or another format's."""
    with file_errors(path), path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise BundleError(f"{path}: more than {LARGEST} bytes, this describes no engine")
    return EngineInfo.from_bytes(data, str(path))


def write_engine_info(path: Path, info: EngineInfo) -> None:
    """Write the sidecar. Raises BundleError where it cannot be, or would not be read back."""
    data = info.to_bytes()
    with file_errors(path):
        path.write_bytes(data)
