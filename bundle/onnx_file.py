"""The outer layers of an ONNX file, read without `onnx`: what stands in it, not what it computes.

ONNX files are Protocol Buffers: fields of a number, a wire type and a value, where a value may be a
message again. Of every message only the fields that our graphs have are read, singular ones once.
Whatever else a file holds is refused by its number: another reader would make more of it. Messages
are followed to a fixed depth, and the whole file is a bounded number of fields.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from seq2edge.errors import BundleError
from seq2edge.files.storage import file_errors

LARGEST_GRAPH: Final = 16 * 2**20  # bytes: weights lie in a file of their own
MOST_FIELDS: Final = 2**20  # of one file; that of a model with 100 layers has a tenth of it

Place: TypeAlias = tuple[int, int]  # where a value begins and ends in the file
Axes: TypeAlias = tuple[int | str, ...]
Attribute: TypeAlias = int | str | tuple[int, ...] | None  # None: a real number, which is not read

_Fields: TypeAlias = dict[int, tuple[str, int, int]]  # name, times and wire type, by tag
MOST_IN_BYTE, LONGEST_NUMBER = 127, 10  # of integers: a byte's part, and bytes
REAL_BYTES = 4
_NUMBER, _BYTES, _REAL = 0, 2, 5  # wire types: integers, what has a length, 32-bit floats
_ONCE, _OFTEN, _PASSED_OVER = range(3)
_KINDS = {"i": _NUMBER, "b": _BYTES, "f": _REAL}


def _fields(text: str) -> _Fields:
    """Fields by tag, of words "number wire-type name": with * repeated ones, with - not read."""
    fields = {}
    for word in text.split():
        number, kind, name = word.split(":")
        often = {"*": _OFTEN, "-": _PASSED_OVER}.get(name[-1], _ONCE)
        fields[int(number) << 3 | _KINDS[kind]] = (name.rstrip("*-"), often, _KINDS[kind])
    return fields


# Attributes hold numbers, strings and lists of integers: no tensors, and no graphs in a graph.
_MODEL = _fields(
    "1:i:ir_version 2:b:producer_name- 3:b:producer_version- 4:b:domain- 5:i:model_version- "
    "6:b:doc_string- 7:b:graph 8:b:opset_import* 14:b:metadata_props-"
)
_OPSET = _fields("1:b:domain 2:i:version")
_GRAPH = _fields(
    "1:b:node* 2:b:name- 5:b:initializer* 10:b:doc_string- 11:b:input* 12:b:output* "
    "13:b:value_info- 16:b:metadata_props-"
)
_NODE = _fields(
    "1:b:input* 2:b:output* 3:b:name- 4:b:op_type 5:b:attribute* 6:b:doc_string- 7:b:domain "
    "9:b:metadata_props-"
)
_ATTRIBUTE = _fields("1:b:name 2:f:f 3:i:i 4:b:s 8:i:ints* 13:b:doc_string- 20:i:type")
_TENSOR = _fields(
    "1:i:dims* 2:i:data_type 8:b:name 9:b:raw_data 12:b:doc_string- 13:b:external_data* "
    "14:i:data_location 16:b:metadata_props-"
)
_ENTRY = _fields("1:b:key 2:b:value")
_VALUE = _fields("1:b:name 2:b:type 3:b:doc_string- 4:b:metadata_props-")
_TYPE = _fields("1:b:tensor_type 6:b:denotation-")
_TENSOR_TYPE = _fields("1:i:elem_type 2:b:shape")
_SHAPE = _fields("1:b:dim*")
_AXIS = _fields("1:i:dim_value 2:b:dim_param 3:b:denotation-")
_FLOAT, _INT, _STRING, _INTS = 1, 2, 3, 7  # types of attributes
_ATTRIBUTE_FIELDS = {_FLOAT: "f", _INT: "i", _STRING: "s", _INTS: "ints"}


class _FormError(Exception):
    """What a file holds that our graphs do not."""


class Node(NamedTuple):
    """One operator of a domain, the values that it reads ("": none) and gives."""

    domain: str
    operator: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Attribute]


class Weight(NamedTuple):
    """An initializer: its type by ONNX's number, and where its values lie.

    In the graph's file they are `place`; elsewhere `external` says where, by ONNX's keys.
    """

    name: str
    kind: int
    dims: tuple[int, ...]
    place: Place | None
    external: dict[str, str]


class Tensor(NamedTuple):
    """An input or output of the graph: its type by ONNX's number, axes by size or symbol."""

    name: str
    kind: int
    axes: Axes


class OnnxFile(NamedTuple):
    """What a file says."""

    ir_version: int
    opsets: dict[str, int]
    nodes: list[Node]
    weights: list[Weight]
    inputs: list[Tensor]
    outputs: list[Tensor]


def read_file(path: Path) -> bytes:
    """The bytes of a graph's file. Raises BundleError for one that is too large to be a graph."""
    with file_errors(path), path.open("rb") as file:
        data = file.read(LARGEST_GRAPH + 1)
    if len(data) > LARGEST_GRAPH:
        raise BundleError(f"{path}: a graph has {LARGEST_GRAPH} bytes at most")
    return data


def read_onnx(data: bytes, subject: object) -> OnnxFile:
    """What a graph's file says. Raises BundleError about `subject` for anything but our graphs."""
    reader = _Reader(data)
    try:
        return reader.model()
    except UnicodeDecodeError:
        raise BundleError(f"{subject}: not a graph of seq2edge, a name is not UTF-8") from None
    except IndexError:
        raise BundleError(f"{subject}: not a graph of seq2edge, it ends too early") from None
    except _FormError as error:
        raise BundleError(f"{subject}: not a graph of seq2edge, {error}") from None


class _Reader:
    """Reads messages at places of one file."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.left = MOST_FIELDS
        # The same ones come often.
        self.attributes: dict[bytes, tuple[str, Attribute]] = {}
        self.entries: dict[bytes, tuple[str, str]] = {}
        self.types: dict[bytes, tuple[int, Axes]] = {}

    def model(self) -> OnnxFile:
        """The whole file."""
        model = self.message("model", _MODEL, (0, len(self.data)))
        opsets = dict(self.opset(place) for place in model.get("opset_import", ()))
        if len(opsets) != len(model.get("opset_import", ())):
            raise _FormError("a domain has two opsets")
        graph = self.message("graph", _GRAPH, self.required(model, "graph"))
        return OnnxFile(
            ir_version=model.get("ir_version", 0),
            opsets=opsets,
            nodes=[self.node(place) for place in graph.get("node", ())],
            weights=[self.weight(place) for place in graph.get("initializer", ())],
            inputs=[self.tensor(place) for place in graph.get("input", ())],
            outputs=[self.tensor(place) for place in graph.get("output", ())],
        )

    def node(self, place: Place) -> Node:
        """One operator."""
        node = self.message("node", _NODE, place)
        attributes: dict[str, Attribute] = {}
        for start, end in node.get("attribute", ()):
            data = self.data[start:end]
            if data not in self.attributes:
                self.attributes[data] = self.attribute((start, end))
            name, value = self.attributes[data]
            if name in attributes:
                raise _FormError(f"a node has two attributes {reprlib.repr(name)}")
            attributes[name] = value
        return Node(
            self.text(node, "domain"),
            self.text(node, "op_type"),
            [self.data[start:end].decode() for start, end in node.get("input", ())],
            [self.data[start:end].decode() for start, end in node.get("output", ())],
            attributes,
        )

    def attribute(self, place: Place) -> tuple[str, Attribute]:
        """Its name and value; it has the field of its type and no other."""
        values = self.message("attribute", _ATTRIBUTE, place)
        name, field = self.text(values, "name"), _ATTRIBUTE_FIELDS.get(values.get("type", 0))
        if field is None or not values.keys() <= {"name", "type", field}:
            raise _FormError(
                f"attribute {reprlib.repr(name)} is no number, string or list of integers"
            )
        if field == "f":
            return name, None
        if field == "ints":
            return name, tuple(map(_signed, values.get("ints", ())))
        return name, self.text(values, "s") if field == "s" else _signed(values.get("i", 0))

    def weight(self, place: Place) -> Weight:
        """One initializer, its values unread."""
        values = self.message("initializer", _TENSOR, place)
        name, place_here = self.text(values, "name"), values.get("raw_data")
        entries = [self.entry(place) for place in values.get("external_data", ())]
        external = dict(entries)
        elsewhere = values.get("data_location", 0)
        if elsewhere not in (0, 1) or not elsewhere == bool(external) == (place_here is None):
            raise _FormError(f"values of {reprlib.repr(name)} lie neither in it nor in a file")
        if len(entries) != len(external):
            raise _FormError(f"values of {reprlib.repr(name)} lie in two places")
        dims = tuple(values.get("dims", ()))
        return Weight(name, values.get("data_type", 0), dims, place_here, external)

    def tensor(self, place: Place) -> Tensor:
        """One input or output."""
        value = self.message("value", _VALUE, place)
        start, end = self.required(value, "type")
        data = self.data[start:end]
        if data not in self.types:
            self.types[data] = self.type((start, end))
        kind, axes = self.types[data]
        return Tensor(self.text(value, "name"), kind, axes)

    def type(self, place: Place) -> tuple[int, Axes]:
        """That of a tensor's values, and its axes."""
        types = self.message("type", _TYPE, place)
        tensor = self.message("tensor type", _TENSOR_TYPE, self.required(types, "tensor_type"))
        shape = self.message("shape", _SHAPE, self.required(tensor, "shape"))
        axes: list[int | str] = []
        for part in shape.get("dim", ()):
            axis = self.message("axis", _AXIS, part)
            if len(axis) != 1:
                raise _FormError("an axis is neither a number nor a symbol")
            symbol = self.text(axis, "dim_param")
            axes.append(axis.get("dim_value", symbol))
        return tensor.get("elem_type", 0), tuple(axes)

    def opset(self, place: Place) -> tuple[str, int]:
        """A domain and the version of its operators."""
        values = self.message("opset_import", _OPSET, place)
        return self.text(values, "domain"), values.get("version", 0)

    def entry(self, place: Place) -> tuple[str, str]:
        """A key and its value."""
        start, end = place
        data = self.data[start:end]
        if data not in self.entries:
            values = self.message("external_data", _ENTRY, place)
            self.entries[data] = self.text(values, "key"), self.text(values, "value")
        return self.entries[data]

    def required(self, values: Mapping[str, Any], name: str) -> Place:
        """Where a message lies that must be there."""
        if name not in values:
            raise _FormError(f"there is no {name}")
        place: Place = values[name]
        return place

    def text(self, values: Mapping[str, Any], name: str) -> str:
        """A string, "" where there is none."""
        start, end = values.get(name, (0, 0))
        return self.data[start:end].decode()

    def message(  # noqa: C901 - one loop over all bytes: every call in it costs loading time
        self, message: str, known: _Fields, place: Place
    ) -> dict[str, Any]:
        """Fields by name: integers, or where a value lies; lists of what may be repeated."""
        values: dict[str, Any] = {}
        data, (start, end) = self.data, place
        value: Any
        for left in range(self.left, -1, -1):
            if start >= end:
                break
            tag, size, start = data[start], data[start + 1], start + 2
            if tag > MOST_IN_BYTE:
                tag, start = self.number(start - 2)
                size, start = data[start], start + 1
            if tag not in known or not left:
                raise _unknown(message, tag, left)
            name, often, kind = known[tag]
            if size > MOST_IN_BYTE and kind != _REAL:
                size, start = self.number(start - 1)
            if kind == _BYTES:
                value = start, start + size
                start += size
            else:
                value, start = size, start + (REAL_BYTES - 1 if kind == _REAL else 0)
            if often == _OFTEN and name in values:
                values[name].append(value)
            elif often != _PASSED_OVER:
                if name in values:
                    raise _FormError(f"a {message} has two fields {name}")
                values[name] = [value] if often == _OFTEN else value
        if start > end:
            raise _FormError(f"a {message} ends within a field")
        self.left = left
        return values

    def number(self, start: int) -> tuple[int, int]:
        """An integer of 64 bits, 7 to a byte, without a sign; and where it ends."""
        value = 0
        for place in range(start, start + LONGEST_NUMBER):
            byte = self.data[place]
            value |= (byte & MOST_IN_BYTE) << 7 * (place - start)
            if byte <= MOST_IN_BYTE:
                return value & 2**64 - 1, place + 1
        raise _FormError("an integer does not end")


def _signed(number: int) -> int:
    return number if number < 2**63 else number - 2**64


def _unknown(message: str, tag: int, left: int) -> _FormError:
    if not left:
        return _FormError(f"more than {MOST_FIELDS} fields")
    return _FormError(f"field {tag >> 3} of a {message} is not known (wire type {tag & 7})")
