"""ONNX files are read without onnx; what our graphs do not hold is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from seq2edge.bundle import onnx_file
from seq2edge.bundle.onnx_file import read_file, read_onnx
from seq2edge.errors import BundleError


def text(number: int, value: bytes) -> bytes:
    """A field with a length."""
    size = len(value)
    assert size < 2**14
    length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
    return bytes([number << 3 | 2]) + length + value


def small(**changes: bytes) -> bytes:
    """A graph of one operator."""
    node = text(1, b"x") + text(2, b"y") + text(4, b"Relu") + changes.get("node", b"")
    axis = text(1, text(2, b"rows")) + text(1, b"\x08\x05")
    value = text(2, text(1, b"\x08\x01" + text(2, axis)))
    graph = text(1, node) + text(11, text(1, b"x") + value) + text(12, text(1, b"y") + value)
    return b"\x08\x0a" + text(8, b"\x10\x18") + text(7, graph + changes.get("graph", b""))


def test_a_file_says_the_same_here_as_to_onnx(old_graphs):
    """Operators, attributes, weights and where they lie, inputs and outputs."""
    for data in old_graphs.values():
        ours, theirs = read_onnx(data, "graph"), onnx.load_from_string(data)
        assert ours.ir_version == theirs.ir_version
        assert ours.opsets == {o.domain: o.version for o in theirs.opset_import}
        for node, expected in zip(ours.nodes, theirs.graph.node, strict=True):
            assert node[:2] == (expected.domain, expected.op_type)
            assert (node.inputs, node.outputs) == (list(expected.input), list(expected.output))
            values = {a.name: onnx.helper.get_attribute_value(a) for a in expected.attribute}
            assert node.attributes.keys() == values.keys()
            for name, value in node.attributes.items():
                plain = values[name].decode() if isinstance(value, str) else values[name]
                assert value in (None, tuple(plain) if isinstance(value, tuple) else plain)
        for weight, tensor in zip(ours.weights, theirs.graph.initializer, strict=True):
            assert weight[:3] == (tensor.name, tensor.data_type, tuple(tensor.dims))
            assert weight.external == {e.key: e.value for e in tensor.external_data}
            if weight.place is not None:
                assert data[slice(*weight.place)] == tensor.raw_data
        for tensors, values in (
            (ours.inputs, theirs.graph.input),
            (ours.outputs, theirs.graph.output),
        ):
            for tensor, value in zip(tensors, values, strict=True):
                kind = value.type.tensor_type
                axes = tuple(a.dim_param or a.dim_value for a in kind.shape.dim)
                assert tensor == (value.name, kind.elem_type, axes)


def test_the_smallest_graph_is_read():
    """So that what follows is refused for what it adds."""
    model = read_onnx(small(), "graph")
    assert [node.operator for node in model.nodes] == ["Relu"]
    assert model.inputs == [("x", 1, ("rows", 5))]
    assert model.opsets == {"": 24}


ATTRIBUTE = text(1, b"a")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "there is no graph"),
        (b"contents of encoder.onnx", "field 12 of a model is not known"),
        (small() + text(7, b""), "two fields graph"),
        (small() + b"\x08\x0a", "two fields ir_version"),
        (small() + text(8, b"\x10\x17"), "a domain has two opsets"),
        (small() + b"\xca\x01\x00", "field 25 of a model"),  # local functions
        (small() + b"\xa2\x01\x00", "field 20 of a model"),  # training
        (small(graph=text(15, b"")), "field 15 of a graph"),  # sparse weights
        (small(graph=text(14, b"")), "field 14 of a graph"),  # quantization's annotations
        (small(node=text(8, b"x")), "field 8 of a node"),  # an overload of a local function
        (small(node=text(5, ATTRIBUTE + text(6, b""))), "field 6 of a attribute"),  # a graph
        (small(node=text(5, ATTRIBUTE + text(5, b""))), "field 5 of a attribute"),  # a tensor
        (small(node=text(5, ATTRIBUTE + b"\xa8\x01\x00")), "field 21 of a attribute"),
        (small(node=text(5, ATTRIBUTE + b"\xa0\x01\x05")), "no number, string or list"),
        (small(node=text(5, ATTRIBUTE + b"\xa0\x01\x02" + text(4, b""))), "no number, string"),
        (small(node=text(5, ATTRIBUTE + b"\xa0\x01\x02\x18\x01") * 2), "two attributes 'a'"),
        (small(node=text(1, b"\xff")), "a name is not UTF-8"),
        (small(graph=text(5, text(8, b"w"))), "values of 'w' lie neither in it nor in a file"),
        (small(graph=text(5, text(8, b"w") + text(9, b"") + b"\x70\x01")), "lie neither"),
        (small(graph=text(5, text(4, b""))), "field 4 of a initializer"),  # float_data
        (small(graph=text(5, text(1, b"\x05"))), "field 1 of a initializer"),  # packed
        (small(graph=text(11, text(2, text(4, b"")))), "field 4 of a type"),  # a sequence
        (small(graph=text(11, text(2, text(1, text(2, text(1, b"")))))), "neither a number nor"),
        (small()[:-1], "ends within a field"),
        (small() + b"\x08" + b"\xff" * 10, "an integer does not end"),
        (small() + b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "ends within a field|two"),
        (small() + b"\x08", "it ends too early"),
        (small() + b"\x0b\x00", "wire type 3"),  # a group
    ],
)
def test_what_our_graphs_do_not_hold_is_refused(data, match):
    """In one line, with what it is."""
    with pytest.raises(BundleError, match=match) as error:
        read_onnx(data, "graph")
    assert "\n" not in str(error.value)


def test_messages_in_messages_are_not_followed_down():
    """A hundred thousand graphs within each other take no stack."""
    nested = b""
    for _ in range(12):
        nested = text(5, text(6, nested))[:4000]
    with pytest.raises(BundleError, match="field 6"):
        read_onnx(small(node=nested), "graph")


def test_a_file_is_a_bounded_number_of_fields(monkeypatch):
    """And of bytes."""
    monkeypatch.setattr(onnx_file, "MOST_FIELDS", 20)
    with pytest.raises(BundleError, match="more than 20 fields"):
        read_onnx(small(), "graph")


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    """Nor is one that is not there."""
    monkeypatch.setattr(onnx_file, "LARGEST_GRAPH", 100)
    path = tmp_path / "graph.onnx"
    path.write_bytes(bytes(101))
    with pytest.raises(BundleError, match="a graph has 100 bytes at most"):
        read_file(path)
    path.write_bytes(bytes(100))
    assert read_file(path) == bytes(100)
    with pytest.raises(BundleError, match=r"none\.onnx"):
        read_file(tmp_path / "none.onnx")


def test_negative_integers_are_read():
    """Of an attribute, in ten bytes."""
    minus = np.uint64(2**64 - 1)
    assert minus == 2**64 - 1
    one = b"\xff" * 9 + b"\x01"
    data = small(node=text(5, ATTRIBUTE + b"\xa0\x01\x02\x18" + one))
    assert read_onnx(data, "graph").nodes[0].attributes == {"a": -1}
