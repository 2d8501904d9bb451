"""How to decode: one frozen record with the names that Hugging Face generation configs use."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """See H2's work."""

    num_beams: int = 1

    def replace(self, **changes: Any) -> DecodeOptions:
        """A copy with some fields changed, validated again."""
        return dataclasses.replace(self, **changes)
