"""Bytes of weights in a graph's file, and of tables that an engine keeps twice."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from tied_graphs import write_graph, write_integers

from seq2edge.errors import EngineError
from seq2edge.export.tensorrt.graph_sizes import read_sizes


def test_a_table_of_an_odd_vocabulary_is_held_twice(tmp_path):
    """The product reads a copy with one row more; an even one serves both."""
    odd = read_sizes(write_graph(tmp_path / "odd.onnx", vocab=57))
    even = read_sizes(write_graph(tmp_path / "even.onnx", vocab=58))
    assert (odd.repeated, even.repeated) == (57 * 64 * 2, 0)
    assert odd.tables == odd.repeated
    assert even.weights == even.tables + 4 * 64 * 64 * 2


def test_integer_tables_are_held_twice_and_counted_in_bits(tmp_path):
    """Looked up and multiplied behind their scales; 4-bit weights are half a byte."""
    found = read_sizes(write_integers(tmp_path / "integers.onnx", vocab=56, width=64))
    assert found.weights == 56 * 64 + 64 * 32 + 2
    assert found.repeated == found.tables == found.integer_head == 56 * 64
    assert found.float_bytes == 2


def test_weights_beside_the_graph_are_counted_without_being_read(tmp_path):
    """Their sizes stand in the graph: the file with them may be on another machine."""
    inside = write_graph(tmp_path / "inside.onnx")
    found = read_sizes(inside)
    apart = tmp_path / "apart.onnx"
    onnx.save(onnx.load(inside), apart, save_as_external_data=True, location="w", size_threshold=0)
    (tmp_path / "w").unlink()
    assert read_sizes(apart) == found


@pytest.mark.parametrize(("dtype", "size"), [(np.float16, 2), (np.float32, 4)])
def test_numbers_have_the_size_of_the_graphs_floats(tmp_path, dtype, size):
    """Caches and what flows between layers."""
    assert read_sizes(write_graph(tmp_path / "graph.onnx", dtype=dtype)).float_bytes == size


def test_files_that_are_no_graphs_are_errors(tmp_path):
    """By name: none at all, garbage, an empty one."""
    garbage, empty = tmp_path / "garbage.onnx", tmp_path / "empty.onnx"
    garbage.write_bytes(b"no graph at all")
    empty.touch()
    for path, message in (
        (tmp_path / "nothing.onnx", r"nothing\.onnx: cannot be read"),
        (garbage, r"garbage\.onnx: cannot be read"),
        (empty, r"empty\.onnx: has no outputs"),
    ):
        with pytest.raises(EngineError, match=message):
            read_sizes(path)
