"""A graph that finds what a token is chosen from, for logits that lie on a device.

The runtime knows no `onnx`, and the graph is seven nodes: it is written here as the bytes of its
protobuf messages (field numbers of onnx.proto, ONNX 1.14 or later).
"""

from __future__ import annotations

import struct

from seq2edge.bundle.engine_info import LOG_SUM_EXP, TOP_IDS, TOP_VALUES

LOGITS = "logits"
_FLOAT, _INT64 = 1, 7  # TensorProto.DataType
_INT_ATTRIBUTE = 2  # AttributeProto.AttributeType
_IR_VERSION, _OPSET = 9, 18


def choice_graph(vocab: int, k: int) -> bytes:
    """An ONNX model: the `k` largest of `logits` (rows, vocab), and the log-sum-exp of all.

    `top_values` and `top_ids` (rows, k), `log_sum_exp` (rows,), as `Candidates` has them. The sum
    comes out of LogSoftmax: the largest logit less what it is there.
    """
    nodes = [
        _node("TopK", (LOGITS, "k"), (TOP_VALUES, TOP_IDS), axis=1),
        _node("LogSoftmax", (LOGITS,), ("log_softmax",), axis=1),
        _node("Slice", (TOP_IDS, "zero", "one", "one"), ("first_id",)),
        _node("GatherElements", ("log_softmax", "first_id"), ("first_log_softmax",), axis=1),
        _node("Slice", (TOP_VALUES, "zero", "one", "one"), ("first_value",)),
        _node("Sub", ("first_value", "first_log_softmax"), ("total",)),
        _node("Squeeze", ("total", "one"), (LOG_SUM_EXP,)),
    ]
    numbers = [_vector(name, value) for name, value in (("k", k), ("zero", 0), ("one", 1))]
    outputs = [
        _value(TOP_VALUES, _FLOAT, ("rows", k)),
        _value(TOP_IDS, _INT64, ("rows", k)),
        _value(LOG_SUM_EXP, _FLOAT, ("rows",)),
    ]
    graph = b"".join(
        [
            *(_field(1, node) for node in nodes),
            _field(2, b"choice"),
            *(_field(5, number) for number in numbers),
            _field(11, _value(LOGITS, _FLOAT, ("rows", vocab))),
            *(_field(12, output) for output in outputs),
        ]
    )
    opset = _field(1, b"") + _number(2, _OPSET)
    return _number(1, _IR_VERSION) + _field(7, graph) + _field(8, opset)


def _node(operator: str, inputs: tuple[str, ...], outputs: tuple[str, ...], **axes: int) -> bytes:
    attributes = [
        _field(1, name.encode()) + _number(3, value) + _number(20, _INT_ATTRIBUTE)
        for name, value in axes.items()
    ]
    return b"".join(
        [
            *(_field(1, name.encode()) for name in inputs),
            *(_field(2, name.encode()) for name in outputs),
            _field(4, operator.encode()),
            *(_field(5, attribute) for attribute in attributes),
        ]
    )


def _vector(name: str, value: int) -> bytes:
    """A constant of one integer."""
    data = struct.pack("<q", value)
    return _number(1, 1) + _number(2, _INT64) + _field(8, name.encode()) + _field(9, data)


def _value(name: str, kind: int, shape: tuple[int | str, ...]) -> bytes:
    """The name, type and shape of an input or output."""
    axes = [_field(2, a.encode()) if isinstance(a, str) else _number(1, a) for a in shape]
    sizes = b"".join(_field(1, axis) for axis in axes)
    tensor = _number(1, kind) + _field(2, sizes)
    return _field(1, name.encode()) + _field(2, _field(1, tensor))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
