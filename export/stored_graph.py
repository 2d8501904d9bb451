"""A graph of a bundle for the passes: whatever the library raises about it is an error about it."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from seq2edge.errors import BundleError, foreign_errors
from seq2edge.files.storage import require_regular


def load_graph(path: Path) -> ir.Model:
    """The graph of a file. Raises BundleError for what is none."""
    with foreign_errors(BundleError, f"{path}: not a graph"):
        require_regular(path)
        return ir.load(path)
