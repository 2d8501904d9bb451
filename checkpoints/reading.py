"""The seam of a checkpoint: whatever its files make us or a library raise is an error about it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from seq2edge.errors import CheckpointError, foreign_errors

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def reads_checkpoint(read: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Of a function whose first argument is the path that its errors name.

    Values of another type than a setting has, sizes beyond all numbers and files that are damaged
    become CheckpointErrors. Invariants of ours and libraries that are missing stay what they are.
    """

    @functools.wraps(read)
    def call(*args: Parameters.args, **names: Parameters.kwargs) -> Result:
        path = next(iter((*args, *names.values())))
        with foreign_errors(
            CheckpointError, f"{path}: cannot be read", AssertionError, ImportError
        ):
            return read(*args, **names)

    return call
