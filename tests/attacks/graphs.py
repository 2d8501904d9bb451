"""Graphs that are none, that hold other operators than ours, or reach for other files."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
from case import Case, Change, edited, read_manifest, rewritten, sealed, write_manifest
from onnx import TensorProto, helper

ENCODER, DECODER = "encoder.onnxruntime.onnx", "decoder.onnxruntime.onnx"
CANONICAL = "decoder.onnx"
ESCAPE = "\x1b[31mx\ny"
LONG = 10**10
OutOf = Callable[[onnx.ModelProto], object]


def cases() -> Iterator[Case]:
    """All of this file."""
    yield from _bytes()
    yield from _operators()
    yield from _external()
    yield from _contract()
    yield from _tensors()
    yield from _lengths()
    yield from _bombs()
    yield from _texts()


def _edit(change: OutOf, file: str = ENCODER) -> Change:
    """Edits a graph; hashes and sizes fit afterwards."""

    def edit(bundle: Path) -> None:
        model = onnx.load(bundle / file, load_external_data=False)
        change(model)
        (bundle / file).write_bytes(model.SerializeToString())

    return sealed(edit)


def _case(name: str, change: OutOf, file: str = ENCODER, **more: Any) -> Case:
    return Case(name=name, start="bart", change=_edit(change, file), **more)


def _raw(name: str, change: Callable[[bytes], bytes], file: str = ENCODER, **more: Any) -> Case:
    return Case(name=name, start="bart", change=sealed(rewritten(file, change)), **more)


def _bytes() -> Iterator[Case]:
    for file in (ENCODER, DECODER, CANONICAL):
        for part in (0, 1, 2, 3):
            yield _raw(
                f"{file} cut to {part} quarters",
                lambda data, p=part: data[: len(data) * p // 4],
                file,
            )
        yield _raw(f"{file} without its last byte", lambda data: data[:-1], file)
        yield _raw(f"{file} twice", lambda data: data + data, file, outcome="either")
        yield _raw(f"{file} is zeros", lambda data: bytes(len(data)), file)
        yield _raw(f"{file} is noise", lambda data: random.Random(3).randbytes(len(data)), file)
        yield _raw(f"{file} is an ELF file", lambda data: b"\x7fELF" + data, file)
    yield _raw("a length of 2^63", lambda data: b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + data)
    yield _raw("a length of 2^64 and more", lambda data: b"\x3a" + b"\xff" * 12 + data)
    yield _raw("an unknown wire type", lambda data: b"\x0f" + data)
    yield _raw("an open group", lambda data: b"\x0b" + data)
    yield _raw("100,000 groups", lambda data: b"\x0b" * 100_000 + data)
    yield _raw("messages nested deep", lambda _: _nested(3000))
    yield _raw(
        "a field of another message",
        lambda data: data + b"\xf8\xff\xff\xff\x0f\x01",
        outcome="either",
    )
    for seed in range(24):
        yield _raw(
            f"bytes flipped at random {seed}",
            lambda data, s=seed: _flipped(data, s),
            (ENCODER, DECODER)[seed % 2],
            outcome="either",
        )


def _nested(depth: int) -> bytes:
    """Graphs within attributes of nodes of graphs."""
    data = b""
    for _ in range(depth):  # GraphProto.node -> NodeProto.attribute -> AttributeProto.g
        for tag in (0x32, 0x2A, 0x0A):
            data = bytes([tag]) + _varint(len(data)) + data
    return b"\x08\x0a\x3a" + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    digits = b""
    while value > 127:
        digits += bytes([value & 127 | 128])
        value >>= 7
    return digits + bytes([value])


def _flipped(data: bytes, seed: int) -> bytes:
    chosen = random.Random(seed)
    changed = bytearray(data)
    for _ in range(1 + seed % 4):
        changed[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
    return bytes(changed)


def _added(*nodes: onnx.NodeProto) -> OutOf:
    """Nodes behind the others, whose results nobody reads."""
    return lambda model: model.graph.node.extend(nodes)


def _before(*nodes: onnx.NodeProto) -> OutOf:
    """Nodes before the others: they run, since a graph's output is made of them."""

    def put(model: onnx.ModelProto) -> None:
        kept = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*nodes, *kept])
        last = model.graph.output[0].name
        for node in model.graph.node:
            for i, name in enumerate(node.output):
                if name == last and nodes:
                    node.output[i] = f"{last}_plain"
        model.graph.node.append(
            helper.make_node("Sum", [f"{last}_plain", nodes[-1].output[0]], [last])
        )

    return put


def _domain(domain: str, version: int = 1) -> OutOf:
    def add(model: onnx.ModelProto) -> None:
        model.opset_import.append(helper.make_opsetid(domain, version))

    return add


def _both(*changes: OutOf) -> OutOf:
    def change_all(model: onnx.ModelProto) -> None:
        for change in changes:
            change(model)

    return change_all


def _scalar(name: str, value: Any, kind: int = TensorProto.INT64) -> onnx.NodeProto:
    values = value if isinstance(value, list) else [value]
    shape = [len(values)] if isinstance(value, list) else []
    return helper.make_node(
        "Constant", [], [name], value=helper.make_tensor(name, kind, shape, values)
    )


def _loop() -> list[onnx.NodeProto]:
    """A loop that never ends."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, [])],
    )
    return [
        _scalar("times", 2**62),
        _scalar("start", True, TensorProto.BOOL),
        helper.make_node("Loop", ["times", "start"], [], body=body),
    ]


def _if() -> list[onnx.NodeProto]:
    value = helper.make_tensor_value_info("v", TensorProto.FLOAT, [])
    branch = helper.make_graph([_scalar("v", 0.0, TensorProto.FLOAT)], "branch", [], [value])
    return [
        _scalar("start", True, TensorProto.BOOL),
        helper.make_node("If", ["start"], ["if_result"], then_branch=branch, else_branch=branch),
    ]


def _operators() -> Iterator[Case]:
    yield _case("a loop that never ends", _both(_added(*_loop())))
    yield _case("a loop that never ends, in the decoder", _added(*_loop()), DECODER)
    yield _case("a branch", _before(*_if()))
    yield _case("a scan", _added(helper.make_node("Scan", ["x"], ["y"], num_scan_inputs=1)))
    for operator in (
        "StringConcat",
        "StringSplit",
        "RegexFullMatch",
        "SequenceEmpty",
        "Optional",
        "NonMaxSuppression",
        "RandomNormal",
        "Multinomial",
        "ImageDecoder",
        "TfIdfVectorizer",
        "StringNormalizer",
        "GRU",
        "LSTM",
        "RNN",
        "Unique",
        "NonZero",
        "SequenceMap",
        "Bernoulli",
    ):
        yield _case(f"the operator {operator}", _added(helper.make_node(operator, [], [operator])))
    yield _case("the operator of nothing", _added(helper.make_node("", [], ["x"])))
    yield _case("an operator that nobody has", _added(helper.make_node("Exec", [], ["x"])))
    yield _case("an operator in control characters", _added(helper.make_node(ESCAPE, [], ["x"])))
    yield _case("an operator of a megabyte", _added(helper.make_node("x" * 2**20, [], ["x"])))
    for domain in (
        "ai.onnx.ml",
        "ai.onnx.training",
        "ai.onnx.preview",
        "com.microsoft.nchwc",
        "ai.onnx.contrib",
        "com.example",
        "com.microsoft.experimental",
        ESCAPE,
        "pkg.onnxscript.torch_lib",
    ):
        node = helper.make_node("Identity", [], [f"x_{len(domain)}"], domain=domain)
        yield _case(f"the domain {domain!r}", _both(_domain(domain), _added(node)))
        yield _case(f"the domain {domain!r} alone", _domain(domain), outcome="either")
    for operator in (
        "Inverse",
        "Tokenizer",
        "ExpandDims",
        "GridSample",
        "BeamSearch",
        "Sampling",
        "WordConvEmbedding",
        "ConvTransposeWithDynamicPads",
        "DecoderMaskedSelfAttention",
        "BifurcationDetector",
        "CDist",
        "Range",
        "Unique",
        "EPContext",
    ):
        node = helper.make_node(operator, [], [f"x_{operator}"], domain="com.microsoft")
        yield _case(f"Microsoft's {operator}", _both(_domain("com.microsoft"), _added(node)))

    def call(model: onnx.ModelProto) -> None:
        function = helper.make_function(
            "local",
            "f",
            ["x"],
            ["y"],
            [helper.make_node("f", ["x"], ["y"], domain="local")],
            [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)],
        )
        model.functions.append(function)
        model.opset_import.append(helper.make_opsetid("local", 1))
        name = model.graph.input[0].name
        model.graph.node.append(helper.make_node("f", [name], ["z"], domain="local"))

    yield _case("a function that calls itself", call)

    def shadow(model: onnx.ModelProto) -> None:
        model.functions.append(
            helper.make_function(
                "",
                "MatMul",
                ["a", "b"],
                ["y"],
                [helper.make_node("Loop", ["a", "b"], ["y"])],
                [helper.make_opsetid("", 21)],
            )
        )

    yield _case("a function in the place of an operator", shadow)

    def training(model: onnx.ModelProto) -> None:
        model.training_info.add().initialization.CopyFrom(model.graph)

    yield _case("training beside the graph", training, outcome="either")
    for version in (0, 1, 6, 27, 99, 2**31 - 1, 2**62, -1):

        def set_opset(model: onnx.ModelProto, version: int = version) -> None:
            model.opset_import[0].version = version

        outcome = "either" if version == 27 else "refused"
        yield _case(f"opset {version}", set_opset, outcome=outcome)
    for version in (0, 99, 2**62, -1):

        def set_ir(model: onnx.ModelProto, version: int = version) -> None:
            model.ir_version = version

        outcome = "refused" if version > 0 else "either"
        yield _case(f"version {version} of the format", set_ir, outcome=outcome)
    yield _case("no opset", lambda model: model.ClearField("opset_import"))
    yield _case("no graph", lambda model: model.ClearField("graph"))
    yield _case("no nodes", lambda model: model.graph.ClearField("node"))
    yield _case("a node twice", lambda model: model.graph.node.append(model.graph.node[0]))

    def circle(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node("Identity", ["a"], ["b"]))
        model.graph.node.append(helper.make_node("Identity", ["b"], ["a"]))

    yield _case("nodes in a circle", circle)
    yield _case("an input from nowhere", _added(helper.make_node("Identity", ["nowhere"], ["x"])))


def _external_of(model: onnx.ModelProto) -> Any:
    """The first tensor whose bytes lie in another file."""
    return next(t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL)


def _entry(key: str, value: str | None, file: str = ENCODER) -> OutOf:
    def put(model: onnx.ModelProto) -> None:
        tensor = _external_of(model)
        kept = [(e.key, e.value) for e in tensor.external_data if e.key != key]
        tensor.ClearField("external_data")
        for name, text in [*kept, *([(key, value)] if value is not None else [])]:
            tensor.external_data.add(key=name, value=text)

    return put


def _external() -> Iterator[Case]:
    for file in (ENCODER, DECODER):
        for what, location in {
            "outside": "../outside/weights.data",
            "outside through a folder": "x/../../outside/weights.data",
            "outside, doubled": "..//../here/../outside/weights.data",
            "absolute": "/etc/passwd",
            "a device without end": "/dev/zero",
            "a device that waits": "/dev/tty",
            "memory": "/proc/self/mem",
            "with a NUL": "weights.data\0../outside/weights.data",
            "in memory at an address": "*/_ORT_MEM_ADDR_/*",
            "a backslash": "..\\outside\\weights.data",
            "an address of the net": "http://127.0.0.1:1/weights.data",
            "missing": "other.data",
            "empty": "",
            "a folder": ".",
            "control characters": ESCAPE,
            "5000 characters": "a/" * 2500,
        }.items():
            yield _case(f"{file}: weights {what}", _entry("location", location), file)
        for name in ("manifest.json", "tokenizer.json", DECODER):
            yield _case(f"{file}: weights in {name}", _entry("location", name), file)
        for offset in (
            "-1",
            "-64",
            str(2**63),
            str(2**62),
            "192512",
            "10**3",
            "0x10",
            "9" * 5000,
            "",
            "NaN",
            "1",
        ):
            outcome = "either" if offset in ("1", "10**3", "0x10", "", "NaN") else "refused"
            yield _case(
                f"{file}: an offset {offset[:20]!r}",
                _entry("offset", offset),
                file,
                outcome=outcome,
            )
        for length in ("-1", str(2**63), "0", "1", "9" * 5000, "ten"):
            outcome = "either" if length == "0" else "refused"
            yield _case(
                f"{file}: a length {length[:20]!r}", _entry("length", length), file, outcome=outcome
            )
        yield _case(f"{file}: no location", _entry("location", None), file)
        yield _case(f"{file}: a checksum", _entry("checksum", "0"), file, outcome="either")
        yield _case(f"{file}: an unknown key", _entry("command", "id"), file, outcome="either")

        def absolute(bundle: Path, file: str = file) -> None:
            model = onnx.load(bundle / file, load_external_data=False)
            _entry("location", str(bundle.parent / "outside" / "weights.data"))(model)
            (bundle / file).write_bytes(model.SerializeToString())

        yield Case(
            name=f"{file}: weights at an absolute place", start="bart", change=sealed(absolute)
        )

        def constant(model: onnx.ModelProto) -> None:
            tensor = helper.make_tensor("stolen", TensorProto.FLOAT, [4], [0.0] * 4)
            tensor.ClearField("float_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="../outside/secret.txt")
            model.graph.node.append(helper.make_node("Constant", [], ["stolen"], value=tensor))

        yield _case(f"{file}: a constant outside", constant, file)

        def sparse(model: onnx.ModelProto) -> None:
            values = helper.make_tensor("stolen", TensorProto.FLOAT, [1], [0.0])
            values.ClearField("float_data")
            values.data_location = TensorProto.EXTERNAL
            values.external_data.add(key="location", value="../outside/secret.txt")
            indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
            model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [8]))

        yield _case(f"{file}: a sparse tensor outside", sparse, file)

    def linked(bundle: Path) -> None:
        (bundle / "weights.data").unlink()
        (bundle / "weights.data").symlink_to("../outside/weights.data")

    yield Case(name="weights that are a link", start="bart", change=linked)


def _contract() -> Iterator[Case]:
    """Inputs and outputs that are not those of the manifest."""
    for file, role in ((ENCODER, "encoder"), (DECODER, "decoder")):
        yield _case(f"{file}: no inputs", lambda model: model.graph.ClearField("input"), file)
        yield _case(f"{file}: no outputs", lambda model: model.graph.ClearField("output"), file)
        yield _case(
            f"{file}: an input twice",
            lambda model: model.graph.input.append(model.graph.input[0]),
            file,
        )
        yield _case(
            f"{file}: an input more",
            lambda model: model.graph.input.append(
                helper.make_tensor_value_info("more", TensorProto.FLOAT, [1])
            ),
            file,
        )

        def other_type(model: onnx.ModelProto) -> None:
            model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING

        yield _case(f"{file}: an input of strings", other_type, file)

        def other_float(model: onnx.ModelProto) -> None:
            model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT

        yield _case(f"{file}: ids as floats", other_float, file)

        def sequence(model: onnx.ModelProto) -> None:
            model.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = 7

        yield _case(f"{file}: an input that is a sequence", sequence, file)
        for size in (0, -5, 7, 2**62):

            def fixed(model: onnx.ModelProto, size: int = size) -> None:
                model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size

            yield _case(f"{file}: an axis of {size}", fixed, file)

        def rank(model: onnx.ModelProto) -> None:
            model.graph.input[0].type.tensor_type.shape.dim.add().dim_value = 3

        yield _case(f"{file}: an axis more", rank, file)

        def renamed(model: onnx.ModelProto) -> None:
            model.graph.output[0].name = "other"

        yield _case(f"{file}: an output of another name", renamed, file)

        def swapped(model: onnx.ModelProto) -> None:
            first, second = model.graph.output[0].name, model.graph.output[1].name
            for node in model.graph.node:
                for i, name in enumerate(node.output):
                    node.output[i] = {first: second, second: first}.get(name, name)
                for i, name in enumerate(node.input):
                    node.input[i] = {first: second, second: first}.get(name, name)

        yield _case(f"{file}: two outputs swapped", swapped, file)
        yield Case(
            name=f"{role} graphs swapped in the folder",
            start="bart",
            change=sealed(_swap(f"{role}.onnx", f"{role}.onnxruntime.onnx")),
            outcome="either",
        )
    yield Case(
        name="encoder and decoder swapped in the folder",
        start="bart",
        change=sealed(_swap(ENCODER, DECODER)),
    )

    def roles(values: dict[str, Any]) -> None:
        for graph in values["graphs"]:
            graph["role"] = {"encoder": "decoder", "decoder": "encoder"}[graph["role"]]

    yield Case(
        name="encoder and decoder swapped in the manifest", start="bart", change=edited(roles)
    )
    yield Case(name="a graph of another model", start="bert", change=_foreign_graph)


def _swap(one: str, other: str) -> Change:
    def swap(bundle: Path) -> None:
        first, second = (bundle / one).read_bytes(), (bundle / other).read_bytes()
        (bundle / one).write_bytes(second)
        (bundle / other).write_bytes(first)

    return swap


def _foreign_graph(bundle: Path) -> None:
    """A small graph that gives what nobody asked for."""
    values = read_manifest(bundle)
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "source"])
    out = helper.make_tensor_value_info("logits", TensorProto.INT64, ["batch", "source"])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["input_ids"], ["logits"])], "g", [ids], [out]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    for entry in values["graphs"]:
        (bundle / entry["file"]).write_bytes(model.SerializeToString())
    write_manifest(bundle, values)
    sealed()(bundle)


def _tensors() -> Iterator[Case]:
    for file in (ENCODER, DECODER):
        for what, dims in {
            "10^10 values": [LONG],
            "2^62 values": [2**31, 2**31],
            "more than 2^64": [2**40, 2**40],
            "a negative axis": [-1, 32],
            "no values": [0, 32],
            "100 axes": [1] * 100,
        }.items():

            def reshape(model: onnx.ModelProto, dims: Any = dims) -> None:
                tensor = _external_of(model)
                del tensor.dims[:]
                tensor.dims.extend(dims)

            yield _case(f"{file}: weights of {what}", reshape, file)

        def retyped(model: onnx.ModelProto) -> None:
            _external_of(model).data_type = TensorProto.STRING

        yield _case(f"{file}: weights of strings", retyped, file)

        def unknown(model: onnx.ModelProto) -> None:
            _external_of(model).data_type = 99

        yield _case(f"{file}: weights of an unknown type", unknown, file)

        def twice(model: onnx.ModelProto) -> None:
            model.graph.initializer.append(_external_of(model))

        yield _case(f"{file}: weights twice", twice, file, outcome="either")

        def promised(model: onnx.ModelProto) -> None:
            tensor = helper.make_tensor("promised", TensorProto.FLOAT, [1], [0.0])
            tensor.ClearField("float_data")
            del tensor.dims[:]
            tensor.dims.extend([LONG])
            tensor.raw_data = b"1234"
            model.graph.initializer.append(tensor)

        yield _case(f"{file}: 10^10 values in four bytes", promised, file)


def _lengths() -> Iterator[Case]:
    """Kernels of attention are handed lengths and places that are far outside."""
    for file in (DECODER, CANONICAL):
        for length in (-5, 10**6, 2**31 - 1, -(2**31)):

            def constant(model: onnx.ModelProto, length: int = length) -> None:
                _replace_lengths(model, length)

            yield _case(f"{file}: lengths of {length}", constant, file)
    for place in (-5, 96, 2**31, -(2**62)):

        def gather(model: onnx.ModelProto, place: int = place) -> None:
            node = next(n for n in model.graph.node if n.op_type.startswith("Gather"))
            shape = helper.make_tensor("place", TensorProto.INT64, [1, 1], [place])
            model.graph.initializer.append(shape)
            node.input[1] = "place"

        yield _case(f"an embedding at {place}", gather, DECODER)


def _replace_lengths(model: onnx.ModelProto, length: int) -> None:
    """The integer inputs of attention and of writes to the cache become constants."""
    kinds = {
        "Attention",
        "GroupQueryAttention",
        "TensorScatter",
        "MultiHeadAttention",
        "DecoderMaskedMultiHeadAttention",
    }
    integers = {
        v.name: v.type.tensor_type.elem_type
        for v in model.graph.input
        if v.type.tensor_type.elem_type in (TensorProto.INT32, TensorProto.INT64)
    }
    made = {name: kind for name, kind in integers.items() if "length" in name}
    for node in model.graph.node:
        integer = node.op_type == "Cast" and node.input[0] in made
        if integer:
            made[node.output[0]] = next(a.i for a in node.attribute if a.name == "to")
    for kind in sorted(set(made.values())):
        if kind in (TensorProto.INT32, TensorProto.INT64):
            bound = max(-(2**31), min(length, 2**31 - 1))
            model.graph.initializer.append(helper.make_tensor(f"lie_{kind}", kind, [1], [bound]))
    for node in model.graph.node:
        if node.op_type in kinds:
            for i, name in enumerate(node.input):
                if name in made:
                    node.input[i] = f"lie_{made[name]}"


def _bombs() -> Iterator[Case]:
    """Small graphs that ask for memory or time without end."""
    size = [2**17, 2**17]
    for file in (ENCODER, DECODER):
        yield _case(
            f"{file}: ConstantOfShape of 64 GB",
            _before(
                _scalar("size", size),
                helper.make_node("ConstantOfShape", ["size"], ["bomb"]),
                helper.make_node("ReduceMax", ["bomb"], ["bomb_most"], keepdims=0),
            ),
            file,
        )
        yield _case(
            f"{file}: Expand to 64 GB",
            _before(
                _scalar("size", size),
                _scalar("one", 0.0, TensorProto.FLOAT),
                helper.make_node("Expand", ["one", "size"], ["bomb"]),
                helper.make_node("ReduceMax", ["bomb"], ["bomb_most"], keepdims=0),
            ),
            file,
        )
        yield _case(
            f"{file}: Range of 10^12",
            _before(
                _scalar("from", 0.0, TensorProto.FLOAT),
                _scalar("to", 1e12, TensorProto.FLOAT),
                _scalar("by", 1.0, TensorProto.FLOAT),
                helper.make_node("Range", ["from", "to", "by"], ["bomb"]),
                helper.make_node("ReduceMax", ["bomb"], ["bomb_most"], keepdims=0),
            ),
            file,
        )
        yield _case(
            f"{file}: Tile to 64 GB",
            _before(
                _scalar("size", [2**34]),
                _scalar("one", [0.0], TensorProto.FLOAT),
                helper.make_node("Tile", ["one", "size"], ["bomb"]),
                helper.make_node("ReduceMax", ["bomb"], ["bomb_most"], keepdims=0),
            ),
            file,
        )
        yield _case(
            f"{file}: Pad to 64 GB",
            _before(
                _scalar("size", [0, 2**34]),
                _scalar("one", [0.0], TensorProto.FLOAT),
                helper.make_node("Pad", ["one", "size"], ["bomb"]),
                helper.make_node("ReduceMax", ["bomb"], ["bomb_most"], keepdims=0),
            ),
            file,
        )
        yield _case(
            f"{file}: a product of 2^15 columns",
            _before(
                _scalar("size", [2**15, 2**15]),
                helper.make_node("ConstantOfShape", ["size"], ["many"]),
                helper.make_node("MatMul", ["many", "many"], ["bomb"]),
                helper.make_node("ReduceMax", ["bomb"], ["bomb_most"], keepdims=0),
            ),
            file,
        )
        doubling = [_scalar("d0", [0.0, 0.0], TensorProto.FLOAT)]
        doubling += [
            helper.make_node("Concat", [f"d{i}", f"d{i}"], [f"d{i + 1}"], axis=0) for i in range(40)
        ]
        doubling.append(helper.make_node("ReduceMax", ["d40"], ["bomb_most"], keepdims=0))
        yield _case(f"{file}: doubled 40 times", _before(*doubling), file)
    yield _case(
        "100,000 nodes",
        _added(*[helper.make_node("Identity", ["input_ids"], [f"i{i}"]) for i in range(100_000)]),
        outcome="either",
    )
    chain = [
        helper.make_node("Identity", [f"c{i}" if i else "input_ids"], [f"c{i + 1}"])
        for i in range(20_000)
    ]
    yield _case("a chain of 20,000 nodes", _added(*chain), outcome="either")


def _texts() -> Iterator[Case]:
    def named(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.name = f"{ESCAPE}{node.name}"

    yield _case("names of control characters", named, outcome="either")

    def failing(model: onnx.ModelProto) -> None:
        named(model)
        model.graph.node[0].input[0] = ESCAPE

    yield _case("names of control characters in an error", failing)

    def documented(model: onnx.ModelProto) -> None:
        model.doc_string = ESCAPE * 100_000
        model.producer_name = ESCAPE
        model.graph.name = ESCAPE
        model.metadata_props.add(key=ESCAPE, value=ESCAPE)

    yield _case("a description of control characters", documented, outcome="either")

    def axes(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = ESCAPE

    yield _case("an axis of control characters", axes, outcome="either")

    def surrogate(data: bytes) -> bytes:
        return data.replace(b"input_ids", b"\xff\xfeput_ids")

    yield _raw("names that are no text", surrogate)

    def inputs(model: onnx.ModelProto) -> None:
        model.graph.input[0].name = ESCAPE

    yield _case("an input of control characters", inputs)
