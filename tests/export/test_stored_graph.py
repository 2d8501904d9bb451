"""Graphs of strangers, as the passes read them: damaged ones are one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from limited import limited

from seq2edge.errors import BundleError
from seq2edge.export.stored_graph import load_graph


@pytest.mark.parametrize(
    "data",
    [b"\xff" * 9, b"\x0a\xff\xff\xff\xff\x7f", b"\x3a" * 10**5, b"PK\x03\x04", b"{" * 10**5, None],
)
def test_damaged_graphs_are_one_line(tmp_path: Path, data: bytes | None) -> None:
    """Whatever the readers of protobuf raise, also of a pipe."""
    path = tmp_path / "decoder.onnx"
    path.write_bytes(data) if data else os.mkfifo(path)
    with limited(), pytest.raises(BundleError, match=r"decoder\.onnx: not a ") as refusal:
        load_graph(path)
    assert str(refusal.value).isprintable()
