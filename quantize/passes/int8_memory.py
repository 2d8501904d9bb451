"""Keep cross-attention's keys and values in 8 bits, for ONNX Runtime.

1. The encoder's outputs become int8, with a scale a channel: (1, heads, 1, head_dim).
2. Of the decoder's new tokens the last one reads them by `GroupQueryAttention`, whose kernel takes
   the integers as they are: the memory is a cache to which nothing is written. It gives them out
   again, as `present_cross_*`, which is to be bound to the same place.
3. Tokens before it, a prompt's, read floats by the `MultiHeadAttention` that was there, since that
   kernel takes one new token of several rows and is slow with many. The scales are in its queries
   and behind it. Without such tokens next to nothing of the memory becomes floats.
4. Whatever else reads the memory, an alignment, reads floats.

Layers whose attention is another one, or whose heads' size is no multiple of 8, stay as they are.
Release 1.32's kernel is the first that reads a memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge.bundle.contract import CROSS, present_of
from seq2edge.export.passes.editing import CONTRIB, Axis, Writer, constant, known_axes
from seq2edge.export.passes.pad_heads import MULTIPLE
from seq2edge.quantize.passes.int8_cache import give_scales, scale_constant, scales_of

NO_END = 2**63 - 1
BIAS = 5  # an input of `MultiHeadAttention`
SOURCE_AXIS = 2  # of a memory


class Int8Memory(ir.passes.InPlacePass):
    """See the module's rules. `channels` are the largest values (heads, head_dim) by memory."""

    def __init__(self, channels: Mapping[str, NDArray[np.float32]]) -> None:
        super().__init__()
        self.channels = channels

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the rules to an encoder or a decoder."""
        graph = model.graph
        known = {name for name in self.channels if name.startswith(CROSS)}
        outputs = [value for value in graph.outputs if value.name in known]
        for output in outputs:
            self._round(graph, output)
        nodes = [n for n in cross_attentions(graph) if str(_read_by(n)[1].name) in self.channels]
        memories = [memory for node in nodes for memory in _read_by(node)[1:]]
        for memory in memories:
            self._give_floats(graph, memory, nodes)
        if nodes:
            reader = _Reader(graph, nodes[0], self.channels)
            for node in nodes:
                reader.replace(node)
        return ir.passes.PassResult(model, modified=bool(outputs or nodes))

    def _give_floats(self, graph: ir.Graph, memory: ir.Value, nodes: Sequence[ir.Node]) -> None:
        """Rule 4."""
        others = [(node, index) for node, index in memory.uses() if node not in nodes]
        if not others:
            return
        write, axes = Writer(graph, graph[0], prefix=f"{memory.name}/floats"), known_axes(memory)
        floats = write.add("Cast", [memory], axes, ir.DataType.FLOAT, to=ir.DataType.FLOAT)
        name = str(memory.name)
        scales = scale_constant(graph, present_of(name), self.channels[name])
        floats = write.add("Mul", [floats, scales], axes)
        for node, index in others:
            node.replace_input_with(index, floats)

    def _round(self, graph: ir.Graph, output: ir.Value) -> None:
        """Rule 1."""
        name, axes = str(output.name), known_axes(output)
        scales = scales_of(self.channels[name])
        output.name = f"{name}.floats"
        writer = Writer(graph, None, prefix=name)
        inverse = constant(graph, f"{name}.inverse_scales", ir.Tensor(1 / scales))
        scaled = writer.add("Mul", [output, inverse], axes)
        zero = constant(graph, "memory.zero", ir.Tensor(np.zeros((), np.int8)))
        one = writer.number(1.0, ir.DataType.FLOAT)
        rounded = writer.add("QuantizeLinear", [scaled, one, zero], axes, ir.DataType.INT8)
        rounded.name = name
        graph.outputs[list(graph.outputs).index(output)] = rounded


def cross_attentions(graph: ir.Graph) -> Iterator[ir.Node]:
    """Those whose keys and values can be read in 8 bits."""
    inputs = set(graph.inputs)
    for node in graph:
        if node.op_type != "MultiHeadAttention" or not inputs.issuperset(node.inputs[1:3]):
            continue
        biased = len(node.inputs) > BIAS and node.inputs[BIAS] is not None
        head_dim = known_axes(node.inputs[1])[-1]  # type: ignore[arg-type]
        if not biased and isinstance(head_dim, int) and head_dim % MULTIPLE == 0:
            yield node


class _Reader:
    """Writes what reads the memories of a decoder, and what all layers share."""

    def __init__(
        self, graph: ir.Graph, first: ir.Node, channels: Mapping[str, NDArray[np.float32]]
    ) -> None:
        self.graph, self.channels = graph, channels
        query, key, _ = _read_by(first)
        self.axes = batch, _, width = known_axes(query)
        write = Writer(graph, first, prefix="memory")
        zero, one = write.integers(0), write.integers(1)
        self.none = write.add("Slice", [query, zero, zero, one], (batch, 0, width))
        before = write.add("Sub", [write.size(query, 1), one], (1,))
        # Where there is no token before the last one: one, and one position of the memory for it.
        several = write.add("Min", [before, one], (1,))
        source = write.size(key, SOURCE_AXIS)
        others = write.add("Mul", [write.add("Sub", [source, one], (1,)), several], (1,))
        self.source = write.add("Add", [others, one], (1,))
        self.before, self.begin = before, write.add("Max", [before, one], (1,))
        total = write.add("Squeeze", [source, zero], ())
        self.total = write.add("Cast", [total], (), ir.DataType.INT32, to=ir.DataType.INT32)
        length = next(value for value in graph.inputs if value.name == "source_length")
        last = write.add("Max", [write.add("Sub", [length, one], (batch,)), zero], (batch,))
        self.last = write.add("Cast", [last], (batch,), ir.DataType.INT32, to=ir.DataType.INT32)

    def replace(self, node: ir.Node) -> None:
        """Rules 2 and 3."""
        write = Writer(self.graph, node, prefix=str(node.name))
        last, before = self._last(write, node), self._before(write, node)
        write.replace_with(write.add("Concat", [before, last], self.axes, axis=1))

    def _last(self, write: Writer, node: ir.Node) -> ir.Value:
        """What the last token reads (batch, 1, width)."""
        query, *memories = _read_by(node)
        axes = (self.axes[0], 1, self.axes[2])
        begin, end, axis = (write.integers(number) for number in (-1, NO_END, 1))
        heads = node.attributes["num_heads"].as_int()
        scale = node.attributes["scale"].as_float()
        kernel = ir.node(
            "GroupQueryAttention",
            [
                write.add("Slice", [query, begin, end, axis], axes),
                self.none,
                self.none,
                *memories,
                self.last,
                self.total,
            ],
            {"num_heads": heads, "kv_num_heads": heads, "scale": scale, "causal": 0},
            domain=CONTRIB,
            num_outputs=3,
            name=f"{node.name}/last",
        )
        for memory, present in zip(memories, kernel.outputs[1:], strict=True):
            present.name = present_of(str(memory.name))
            memory.type = present.type = ir.TensorType(ir.DataType.INT8)
            present.shape = memory.shape
            self.graph.outputs.append(present)
        give_scales(self.graph, kernel, [self.channels[str(memory.name)] for memory in memories])
        answer = kernel.outputs[0]
        answer.name, answer.type, answer.shape = str(kernel.name), query.type, ir.Shape(axes)
        self.graph.insert_before(node, kernel)
        return answer

    def _before(self, write: Writer, node: ir.Node) -> ir.Value:
        """What the tokens before it read (batch, new - 1, width)."""
        query, *memories = _read_by(node)
        zero, one = write.integers(0), write.integers(1)
        flat = [self._flat_scales(memory) for memory in memories]
        axes: list[Axis] = [self.axes[0], None, self.axes[2]]
        before = write.add("Slice", [query, zero, self.begin, one], axes)
        scaled = write.add("Mul", [before, flat[0]], axes)
        floats = []
        for memory in memories:
            part = known_axes(memory)
            part[SOURCE_AXIS] = None
            cut = [memory, zero, self.source, write.integers(SOURCE_AXIS)]
            read = write.add("Slice", cut, part)
            floats.append(write.add("Cast", [read], part, ir.DataType.FLOAT, to=ir.DataType.FLOAT))
        attention = ir.node(
            "MultiHeadAttention",
            [scaled, *floats, *node.inputs[3:]],
            node.attributes,
            domain=CONTRIB,
            name=f"{node.name}/before",
        )
        answer = attention.outputs[0]
        answer.name, answer.type, answer.shape = str(attention.name), query.type, ir.Shape(axes)
        self.graph.insert_before(node, attention)
        seen = write.add("Mul", [answer, flat[1]], axes)
        return write.add("Slice", [seen, zero, self.before, one], axes)

    def _flat_scales(self, memory: ir.Value) -> ir.Value:
        scales = scales_of(self.channels[str(memory.name)]).reshape(1, 1, -1)
        return constant(self.graph, f"{memory.name}.flat_scales", ir.Tensor(scales))


def _read_by(node: ir.Node) -> list[ir.Value]:
    """Queries, keys and values."""
    read = node.inputs[:3]
    assert None not in read
    return list(read)  # type: ignore[arg-type]
