"""For tests of backends: whether one keeps what `seq2edge.runtime.backend` promises."""

from __future__ import annotations

from seq2edge.testing.contract import CHECKS, ContractError, check_backend
from seq2edge.testing.examples import Examples, examples_of

__all__ = ["CHECKS", "ContractError", "Examples", "check_backend", "examples_of"]
