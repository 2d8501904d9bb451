"""How long work tells how far it has come."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

# Called with what is being done, and how much of all the work is done (0 to 1).
Progress: TypeAlias = Callable[[str, float], None]
# Called with lines to show; one that begins with a carriage return is replaced by the next.
Say: TypeAlias = Callable[[str], None]
# Called with how much of one part of the work is done (0 to 1).
PartProgress: TypeAlias = Callable[[float], None]
