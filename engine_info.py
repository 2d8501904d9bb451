"""What an engine's sidecar says: what it was made of, for which sizes, and what stands in it.

Closed, like the manifest: unknown and missing keys are refused. It needs neither TensorRT nor onnx.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from seq2edge.errors import BundleError
from seq2edge.manifest import Precision, Role, Sha256, TensorRecord, UtcTime
from seq2edge.records import decode, parse_json

Form: TypeAlias = Literal["masked", "lowered"]
SHAPE = 3  # a range is least, best, most


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineSizes:
    """The sizes that an engine takes: ranges are (least, best, most)."""

    batch: tuple[int, ...]
    beams: int
    source: tuple[int, ...]
    prompt: tuple[int, ...]
    capacity: int

    def __post_init__(self) -> None:
        """Raise BundleError for ranges of another form."""
        for name in ("batch", "source", "prompt"):
            if len(getattr(self, name)) != SHAPE:
                raise BundleError(f"{name}: a range is least, best and most")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """One engine.

    `library` and `release` are the TensorRT that alone can load it. `graph_sha256` is of the
    bundle's graph and weights that it was made of. `fused_attentions`, `cache_updates`
    and `cache_copies` (caches that are copied whole before they are written) are counted for each
    of the `profiles`; `products` counts products with a weight by their types.
    """

    library: str
    release: str
    target: str
    role: Role
    form: Form
    precision: Precision
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
    build_peak_bytes: int | None
    created: UtcTime

    def to_bytes(self) -> bytes:
        """The sidecar, UTF-8 JSON."""
        return (json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n").encode()


def read_engine_info(path: Path) -> EngineInfo:
    """The sidecar's record. Raises BundleError for anything but exactly that."""
    try:
        info: EngineInfo = decode(EngineInfo, parse_json(path.read_bytes()))
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}") from error
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error.__cause__
    return info
