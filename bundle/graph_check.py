"""What a graph's file may hold, checked before any library that runs graphs sees it.

Those libraries read whatever a file says: files elsewhere as weights, operators that loop for ever,
lengths that kernels take for granted. So a graph of a bundle has:

1. only the operators that export and quantize write, with only the attributes that they have;
2. weights in its own file or in files of the manifest, of just the bytes that their shapes need;
3. the inputs and outputs that the manifest says, and these are what the dims say for its role;
4. kernels' lengths from the inputs by the one way that we write them, caches from and to the ones
   of the contract, and what is written into them as long as the new tokens (`shapes.py`). That
   the inputs' numbers fit each other is for whoever calls it.
"""

from __future__ import annotations

import itertools
import math
import reprlib
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NoReturn

from seq2edge.bundle.contract import (
    AVERAGED,
    CROSS,
    PAST,
    PRESENT,
    Shape,
    alignment_shape,
    decoder_contract,
    encoder_contract,
    present_of,
)
from seq2edge.bundle.engine_info import (
    ALIGNMENT,
    LAST_POSITIONS,
    LINES,
    SEGMENTS,
    TOP_IDS,
    TOP_VALUES,
    top_outputs,
)
from seq2edge.bundle.folder import Bundle
from seq2edge.bundle.manifest import GraphRecord, Manifest, TensorRecord
from seq2edge.bundle.onnx_file import Node, OnnxFile, Tensor, Weight, read_file, read_onnx
from seq2edge.bundle.operators import (
    CONTRIB,
    CONTRIBUTED,
    COUNTS,
    DOWNWARDS,
    IR_VERSIONS,
    KINDS,
    LENGTHS,
    LONGEST,
    MEMORY_LENGTHS,
    OPSETS,
    SIZES,
    SLICE_ENDS,
    SLICE_OPERATORS,
    SLICE_PLACES,
    STANDARD,
    UPWARDS,
)
from seq2edge.bundle.shapes import Axes, Shapes
from seq2edge.errors import BundleError
from seq2edge.model.dims import Dims

HEAD_MULTIPLE: Final = 8  # cached heads may be padded to it, see pad_heads.py
MOST_AXES: Final = 8
LARGEST_SIZE: Final = 2**40  # of an axis
FLOATS: Final = ("float32", "float16", "bfloat16")
NARROW: Final = 8  # bits of a byte
INT64: Final = 7  # ONNX's number
LARGEST_INTEGER: Final = 2**24  # of an attribute
INT64_BYTES: Final = 8
MOST_INTEGERS: Final = 64  # of a weight whose values are read
NO_END: Final = 2**63 - 1  # as the end of a slice
DEEPEST_WAY, MOST_READ = 4, 2  # of the way to a length: operators, and what each reads
LONGEST_NUMBER: Final = 18  # digits
# Inputs and outputs that are caches: kernels write them in place.
CACHES: Final = {"GroupQueryAttention": ((3, 4), (1, 2)), "TensorScatter": ((0,), (0,))}
# What kernels write into caches, and where its axes of rows and of new tokens are.
WRITTEN: Final[Mapping[str, Mapping[int, tuple[int, int]]]] = {
    "GroupQueryAttention": {0: (0, 1), 1: (0, 1), 2: (0, 1)},
    "TensorScatter": {1: (0, 2)},
}
NEW_TOKENS: Final = [("rows",), ("new",)]
NO_TOKENS: Final = [("batch",), (0,)]  # are written into memories
WITH_LENGTHS: Final = {operator for operator, _ in LENGTHS}
_SHORT = reprlib.Repr()
_SHORT.maxstring = 60


def checked_graph(bundle: Bundle, record: GraphRecord) -> Path:
    """Where one of a bundle's graphs lies. Raises BundleError where its file is not harmless."""
    path = bundle.file(record.file)
    check_graph(read_file(path), record, bundle.manifest, path)
    return path


def check_graph(data: bytes, record: GraphRecord, manifest: Manifest, subject: object) -> None:
    """Check a graph's bytes by the module's rules. Raises BundleError about `subject`."""
    check_contract(record, manifest, subject)
    _Check(data, record, manifest, subject).run()


class _Check:
    """One file against the manifest."""

    def __init__(
        self, data: bytes, record: GraphRecord, manifest: Manifest, subject: object
    ) -> None:
        self.data = data
        self.record = record
        self.manifest = manifest
        self.subject = subject
        self.file: OnnxFile = read_onnx(data, subject)
        self.weights: dict[str, Weight] = {}
        self.producers: dict[str, Node] = {}  # by what they give
        self.constants: dict[str, tuple[int, ...]] = {}  # weights of few integers
        self.sizes = {LAST_POSITIONS}  # values made of constants, shapes and lengths alone
        self.places: set[str] = set()  # what is computed of these

    def fail(self, what: str) -> NoReturn:
        """Refuse the graph."""
        raise BundleError(f"{self.subject}: {what}")

    def run(self) -> None:
        """All checks of the file."""
        self.check_versions()
        for weight in self.file.weights:
            self.check_weight(weight)
        self.check_positions()
        self.check_tensors("input", self.file.inputs, self.record.inputs)
        self.check_tensors("output", self.file.outputs, self.record.outputs)
        shapes = self.begin_shapes() if self.record.role == "decoder" else None
        known = {"", *self.weights, *(tensor.name for tensor in self.file.inputs)}
        if len(known) != 1 + len(self.weights) + len(self.file.inputs):
            self.fail("an input is a weight as well, or two inputs have one name")
        operators = STANDARD
        if self.record.target == "onnxruntime":
            operators = operators | CONTRIBUTED
        for node in self.file.nodes:
            self.check_node(node, known, operators)
            self.check_sizes(node)
            if shapes is not None:
                shapes.add(node)
                self.check_written(node, shapes)
            for name in node.outputs:
                if name in known and name:
                    self.fail(f"two values are called {_short(name)}")
                self.producers[name] = node
            self.follow_sizes(node)
            known.update(node.outputs)
        for tensor in self.file.outputs:
            if tensor.name not in self.producers:
                self.fail(f"output {_short(tensor.name)} is made by no operator")

    def check_positions(self) -> None:
        """A table of positions has a row for each that the manifest says."""
        stack = getattr(self.manifest.dims, self.record.role)
        table = self.weights.get(f"model.{self.record.role}.positions.weight")
        if not stack or not table or not table.dims:
            return
        rows, most = table.dims[0], stack.max_positions
        if rows < most or (not most and stack.positions == "learned"):
            self.fail(f"{rows} positions, the manifest says {most}")

    def check_versions(self) -> None:
        """Of ONNX, and of the domains that operators come from."""
        file, record = self.file, self.record
        if file.ir_version not in IR_VERSIONS:
            self.fail(f"version {file.ir_version} of ONNX's format")
        if file.opsets != dict(record.opset):
            self.fail(f"opsets {_short(file.opsets)}, the manifest says {_short(record.opset)}")
        for domain, version in file.opsets.items():
            if version not in OPSETS.get(domain, ()):
                self.fail(f"opset {version} of the domain {_short(domain)}")

    def check_tensors(
        self, place: str, tensors: Iterable[Tensor], records: Iterable[TensorRecord]
    ) -> None:
        """Inputs or outputs are the manifest's, in its order."""
        said = [(record.name, record.dtype, record.shape) for record in records]
        have = [(t.name, KINDS.get(t.kind, ("", 0))[0], t.axes) for t in tensors]
        if said != have:
            pairs = itertools.zip_longest(have, said)
            differs = next(pair for pair in pairs if pair[0] != pair[1])
            self.fail(f"{place} {_short(differs[0])}, the manifest says {_short(differs[1])}")

    def check_weight(self, weight: Weight) -> None:
        """Its bytes are those that its shape needs, here or in a file of the manifest."""
        name, kind, dims, place, external = weight
        if kind not in KINDS or not name or name in self.weights:
            self.fail(f"weight {_short(name)} has an unknown type, no name or that of another")
        if len(dims) > MOST_AXES or (dims and max(dims) > LARGEST_SIZE):
            self.fail(f"weight {_short(name)} has the shape {_short(dims)}")
        self.weights[name] = weight
        needed = -(-math.prod(dims) * KINDS[kind][1] // NARROW)
        if place is not None:
            size: int | str = place[1] - place[0]
        elif external.keys() != {"location", "offset", "length"}:
            self.fail(f"weight {_short(name)} lies at {_short(external)}")
        else:
            size = external["length"]
        if str(size) != str(needed):
            self.fail(f"weight {_short(name)} has {_short(size)} bytes, its shape needs {needed}")
        if external:
            self.check_place(name, external, needed)
        if numbers := self.integers(weight):
            self.constants[name] = numbers
            self.sizes.add(name)

    def check_place(self, name: str, external: Mapping[str, str], needed: int) -> None:
        """So many bytes lie there, in a file of the manifest."""
        location, offset = external["location"], external["offset"]
        file = self.manifest.files.get(location)
        if file is None:
            self.fail(f"weight {_short(name)} lies in {_short(location)}, no file of the manifest")
        if not _is_number(offset) or int(offset) + needed > file.size:
            begin = _short(offset)
            self.fail(f"weight {_short(name)} begins at {begin}, beyond the end of {location}")

    def check_node(
        self, node: Node, known: set[str], operators: Mapping[str, frozenset[str]]
    ) -> None:
        """An operator that we write, of values that are there, with lengths from the inputs."""
        operator = node.operator
        domain = CONTRIB if operator in CONTRIBUTED else ""
        if operator not in operators or node.domain != domain:
            whole = _short(f"{node.domain}.{operator}".strip("."))
            self.fail(f"operator {whole} is none of those that export and quantize write")
        if not node.attributes.keys() <= operators[operator]:
            names = _short(sorted(node.attributes.keys() - operators[operator]))
            self.fail(f"operator {operator} has attributes {names}, which are never written")
        for name, value in node.attributes.items():
            numbers = value if isinstance(value, tuple) else (value,)
            least = 1 if name in COUNTS else -MOST_AXES
            if not all(least <= n <= LARGEST_INTEGER for n in numbers if isinstance(n, int)):
                self.fail(f"operator {operator} has {name} {_short(value)}")
        if node.attributes.get("num_outputs", len(node.outputs)) != len(node.outputs):
            self.fail(f"operator {operator} has {len(node.outputs)} outputs, and says otherwise")
        if not known.issuperset(node.inputs):
            names = _short(sorted(set(node.inputs) - known))
            self.fail(f"operator {operator} reads {names}, which nothing before it gives")
        if operator in WITH_LENGTHS:
            self.check_lengths(node)

    def check_lengths(self, node: Node) -> None:
        """What its kernel trusts comes straight from the graph's inputs, caches are our own."""
        lengths = MEMORY_LENGTHS if _reads_memory(node) else LENGTHS
        for place, name in enumerate(node.inputs):
            expected = lengths.get((node.operator, place))
            if name and expected is not None and self.way(name) != expected:
                self.fail(
                    f"input {place} of {node.operator} is {_short(self.way(name))}, "
                    f"not {expected or 'left out'}"
                )
        caches = CACHES.get(node.operator)
        if caches is None:
            return
        pasts = [node.inputs[i] for i in caches[0] if i < len(node.inputs)]
        presents = [node.outputs[i] for i in caches[1] if i < len(node.outputs)]
        inputs = {tensor.name for tensor in self.file.inputs}
        paired = [present_of(name) for name in pasts]
        if len({name.startswith(CROSS) for name in pasts}) > 1:
            self.fail(f"{node.operator} reads both a cache and a memory, {_short(pasts)}")
        if len(pasts) != len(caches[0]) or paired != presents or not inputs.issuperset(pasts):
            self.fail(f"{node.operator} reads caches {_short(pasts)} and gives {_short(presents)}")

    def check_sizes(self, node: Node) -> None:
        """What kernels make room by are constants, shapes and lengths, and no large constants."""
        for place in SIZES.get(node.operator, ()):
            for name in filter(None, node.inputs[place : place + 1]):
                numbers = self.constants.get(name, ())
                if (node.operator, place) == SLICE_ENDS:
                    numbers = tuple(number for number in numbers if number != NO_END)
                largest = max(map(abs, numbers), default=0)
                if node.operator == "Expand":
                    largest = math.prod(number for number in numbers if number)
                cuts = node.operator == "Slice" and place in SLICE_PLACES and name in self.places
                if (name not in self.sizes and not cuts) or largest > LARGEST_INTEGER:
                    self.fail(
                        f"input {place} of {node.operator} is no size, {_short(numbers or name)}"
                    )

        if node.operator == "Range":
            ways = [self.way(name) for name in node.inputs]
            if ways[::2] != UPWARDS and ways != DOWNWARDS:
                self.fail(f"Range goes by {_short(ways)}, not upwards from 0 nor down to 1")

    def follow_sizes(self, node: Node) -> None:
        """Add what is a size where all is that it is made of."""
        made = node.operator in ("Squeeze", "Unsqueeze", "Concat")
        if (
            node.operator == "Shape"
            or (made and self.sizes.issuperset(node.inputs))
            or (node.operator == "ReduceMax" and self.way(node.outputs[0]) == LONGEST)
        ):
            self.sizes.update(node.outputs)
        elif node.operator in SLICE_OPERATORS and all(
            name in self.sizes or name in self.places for name in node.inputs
        ):
            self.places.update(node.outputs)

    def begin_shapes(self) -> Shapes:
        """What is known before the first operator."""
        shapes: dict[str, Axes] = {tensor.name: tensor.axes for tensor in self.file.inputs}
        shapes |= {name: weight.dims for name, weight in self.weights.items()}
        return Shapes(shapes, self.constants)

    def check_written(self, node: Node, shapes: Shapes) -> None:
        """What a kernel writes into a cache is as long as the new tokens; into memories nothing."""
        memory = _reads_memory(node)
        for place, axes in WRITTEN.get(node.operator, {}).items():
            if memory and place == 0:
                continue  # queries alone
            if not memory and not any(node.inputs[place : place + 1]):
                continue
            shape = shapes.of(node, place) or ()
            if [shape[axis : axis + 1] for axis in axes] != (NO_TOKENS if memory else NEW_TOKENS):
                what = "to be of no token" if memory else "to be as long as the new tokens"
                self.fail(f"input {place} of {node.operator} is {_short(shape)}, not shown {what}")

    def way(self, name: str, depth: int = 0) -> str:
        """How a value comes from inputs and constants, as LENGTHS writes it; ? where too far."""
        node, weight = self.producers.get(name), self.weights.get(name)
        if weight is not None:
            return str(list(self.constants.get(name, "?")))
        if node is None:
            return CROSS if name.startswith(CROSS) else name
        if depth > DEEPEST_WAY or node.outputs[0] != name or len(node.inputs) > MOST_READ:
            return "?"
        inputs = ",".join(self.way(value, depth + 1) for value in node.inputs)
        mark = node.attributes.get("to", node.attributes.get("start", ""))
        return f"{node.operator}{mark}({inputs})"

    def integers(self, weight: Weight) -> tuple[int, ...]:
        """What a weight of a few integers holds; nothing of any other."""
        if weight.kind != INT64 or weight.place is None:
            return ()
        start, end = weight.place
        if end - start > INT64_BYTES * MOST_INTEGERS:
            return ()
        return struct.unpack(f"<{(end - start) // INT64_BYTES}q", self.data[start:end])


def _reads_memory(node: Node) -> bool:
    """Whether its cache is an encoder memory."""
    places = CACHES.get(node.operator, ((), ()))[0]
    return any(name.startswith(CROSS) for i in places for name in node.inputs[i : i + 1])


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER


def _short(value: object) -> str:
    return _SHORT.repr(value)


def check_contract(record: GraphRecord, manifest: Manifest, subject: object) -> None:
    """Raise BundleError unless a graph's record is what the dims say for its role and target."""
    dims = manifest.dims
    if (dims.decoder if record.role == "decoder" else dims.encoder) is None:
        raise BundleError(f"{subject}: {record.role} of a model of kind {dims.kind}")
    inputs = {tensor.name: tensor for tensor in record.inputs}
    outputs = {tensor.name: tensor for tensor in record.outputs}
    contract = (
        encoder_contract(dims)
        if record.role == "encoder"
        else decoder_contract(
            dims,
            alignment=_alignment(dims, outputs.get(ALIGNMENT)),
            memories=[name for name, tensor in inputs.items() if _is_cached_memory(tensor)],
        )
    )
    expected_inputs, expected_outputs = dict(contract.inputs), dict(contract.outputs)
    if SEGMENTS not in inputs:
        expected_inputs.pop(SEGMENTS, None)  # graphs of older bundles read no types
    if record.role == "decoder" and record.target == "onnxruntime":
        if LAST_POSITIONS in inputs:
            expected_inputs[LAST_POSITIONS] = (1,)
            for name in {"logits", ALIGNMENT} & expected_outputs.keys():
                expected_outputs[name] = (LINES, *expected_outputs[name][1:])
        if TOP_VALUES in outputs:
            k = outputs[TOP_VALUES].shape[-1]
            k = k if isinstance(k, int) and 1 <= k <= dims.vocab else dims.vocab
            lines = expected_outputs["logits"][:1]
            expected_outputs |= {t.name: (*lines, *t.shape[1:]) for t in top_outputs(k)}
    _compare(inputs, expected_inputs, record, manifest, f"{subject}: input")
    _compare(outputs, expected_outputs, record, manifest, f"{subject}: output")
    for name, tensor in inputs.items():
        present = outputs.get(present_of(name))
        if present and (present.shape, present.dtype) != (tensor.shape, tensor.dtype):
            raise BundleError(f"{subject}: {name} and {present.name} differ in type or shape")


def _is_cached_memory(tensor: TensorRecord) -> bool:
    """Whether an encoder memory is a cache to the decoder, see int8_memory.py."""
    return tensor.name.startswith(CROSS) and tensor.dtype == "int8"


def _alignment(dims: Dims, output: TensorRecord | None) -> Shape | None:
    """What an alignment's shape has to be; of speech with as many heads as it says, if it may.

    Older bundles gave the mean of the heads for speech too.
    """
    if output is None or dims.decoder is None:
        return None
    if not dims.alignment_by_head or len(output.shape) == len(AVERAGED):
        return AVERAGED
    heads = output.shape[1] if len(output.shape) > 1 else None
    most = dims.decoder.layers * dims.decoder.heads
    return alignment_shape(dims, heads if isinstance(heads, int) and 1 <= heads <= most else most)


def _compare(
    tensors: Mapping[str, TensorRecord],
    expected: Mapping[str, Shape],
    record: GraphRecord,
    manifest: Manifest,
    place: str,
) -> None:
    """Names, shapes and types are those of the contract."""
    if tensors.keys() != expected.keys():
        names = _short(sorted(tensors.keys() ^ expected.keys()))
        raise BundleError(f"{place}s differ from those of the dims' {record.role} by {names}")
    for name, shape in expected.items():
        tensor = tensors[name]
        if not _is_shape(tensor, shape, record):
            raise BundleError(f"{place} {name} is {_short(tensor.shape)}, the dims say {shape}")
        if tensor.dtype not in _dtypes(name, record, manifest):
            raise BundleError(f"{place} {name} is {tensor.dtype}, which it never is")


def _is_shape(tensor: TensorRecord, shape: Shape, record: GraphRecord) -> bool:
    """The shape, or that of heads which were padded for ONNX Runtime's kernel."""
    if tensor.shape == shape:
        return True
    size = shape[-1]
    if record.target != "onnxruntime" or not tensor.name.startswith((PAST, PRESENT)):
        return False
    return isinstance(size, int) and tensor.shape == (*shape[:-1], size + -size % HEAD_MULTIPLE)


def _dtypes(name: str, record: GraphRecord, manifest: Manifest) -> Iterable[str]:
    """The types that an input or output may have."""
    if name in ("input_ids", SEGMENTS, LAST_POSITIONS, TOP_IDS) or name.endswith("_length"):
        return ("int64",)
    if record.target == "tensorrt":
        return FLOATS
    quantization = manifest.quantization
    if record.target == "onnxruntime" and quantization is not None:
        own = ("past_key", "past_value", "present_key", "present_value")
        if name.startswith(own) and quantization.cache == "int8":
            return ("int8",)
        if name.startswith(CROSS) and quantization.memory == "int8":
            return ("float32", "int8")  # by the form of its attention
        if name.startswith(PRESENT + CROSS):
            return ("int8",)
    return ("float32",)
