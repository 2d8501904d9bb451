"""A graph is checked before anything runs it: what it computes with, reads, takes and gives."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.helper import make_attribute, make_node, make_opsetid, make_tensor
from speaking import eight_bit_caches

import seq2edge
from seq2edge.bundle import Bundle
from seq2edge.bundle.graph_check import check_contract, check_graph
from seq2edge.bundle.manifest import GraphRecord, Manifest
from seq2edge.bundle.operators import STANDARD
from seq2edge.errors import BundleError
from seq2edge.files.storage import fingerprint
from seq2edge.runtime.backends.verification import verify_graphs

Edit = Callable[[onnx.ModelProto], object]
DECODER = "decoder.onnxruntime.onnx"


@pytest.fixture
def bundle(old_bundles) -> Bundle:
    """An encoder-decoder with graphs of both kinds."""
    return old_bundles["encoder-decoder"]


def record_of(bundle: Bundle, file: str) -> GraphRecord:
    """What the manifest says of a graph."""
    return next(graph for graph in bundle.manifest.graphs if graph.file == file)


def edited(bundle: Bundle, file: str, edit: Edit) -> bytes:
    """The bytes of a changed graph."""
    model = onnx.load(bundle.file(file), load_external_data=False)
    edit(model)
    return model.SerializeToString()


def check(bundle: Bundle, data: bytes, file: str = DECODER) -> None:
    """Check bytes in the place of a bundle's graph."""
    check_graph(data, record_of(bundle, file), bundle.manifest, file)


def nodes(model: onnx.ModelProto, operator: str) -> list[onnx.NodeProto]:
    """Its nodes of an operator."""
    return [node for node in model.graph.node if node.op_type == operator]


def outside(model: onnx.ModelProto) -> onnx.TensorProto:
    """The first weight that lies in a file."""
    return next(tensor for tensor in model.graph.initializer if tensor.data_location)


def inside(model: onnx.ModelProto) -> onnx.TensorProto:
    """The first weight with axes that lies in the graph."""
    return next(t for t in model.graph.initializer if not t.data_location and t.dims)


def integers(model: onnx.ModelProto) -> onnx.TensorProto:
    """The first weight of whole numbers."""
    return next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT64)


def place(key: str, value: str) -> Edit:
    """Let the first weight of a file lie elsewhere."""

    def edit(model: onnx.ModelProto) -> None:
        for entry in outside(model).external_data:
            if entry.key == key:
                entry.value = value

    return edit


def test_honest_graphs_pass(old_bundles):
    """Of every kind."""
    for bundle in old_bundles.values():
        for graph in bundle.manifest.graphs:
            check(bundle, bundle.file(graph.file).read_bytes(), graph.file)


def add_node(*arguments: object, **options: object) -> Edit:
    """A node of its own behind the others."""
    return lambda model: model.graph.node.append(make_node(*arguments, **options))


@pytest.mark.parametrize("operator", ["Loop", "If", "Scan", "Constant", "Identity", "Einsum"])
def test_operators_that_are_never_written_are_refused_by_name(bundle, operator):
    """A graph of unknown origin has others."""
    data = edited(bundle, DECODER, add_node(operator, ["logits"], ["new"]))
    with pytest.raises(BundleError, match=f"operator '{operator}' is none of those"):
        check(bundle, data)


@pytest.mark.parametrize("domain", ["evil", "ai.onnx.ml", "com.microsoft", "ai.onnx"])
def test_operators_of_other_domains_are_refused(bundle, domain):
    """Also where they have the name of one of ours."""
    data = edited(bundle, DECODER, add_node("Add", ["logits"] * 2, ["new"], domain=domain))
    with pytest.raises(BundleError, match=f"operator '{domain}.Add' is none of those"):
        check(bundle, data)


def test_canonical_graphs_have_standard_operators_alone(bundle):
    """Those of ONNX Runtime stand in its own graphs."""
    node = add_node("MultiHeadAttention", ["logits"] * 3, ["new"], domain="com.microsoft")
    with pytest.raises(
        BundleError, match=r"operator 'com.microsoft.MultiHeadAttention' is none of"
    ):
        check(bundle, edited(bundle, "decoder.onnx", node), "decoder.onnx")


def with_branch(model: onnx.ModelProto) -> None:
    """A graph inside of a node of ours."""
    branch = onnx.helper.make_graph([], "branch", [], [])
    model.graph.node[0].attribute.append(make_attribute("axis", branch))


def with_function(model: onnx.ModelProto) -> None:
    """An operator of ours that the file defines anew."""
    opsets = [make_opsetid("", 21)]
    loop = make_node("Loop", ["a"], ["b"])
    model.functions.append(onnx.helper.make_function("", "Add", ["a"], ["b"], [loop], opsets))


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (with_branch, "field 6 of a attribute is not known"),
        (with_function, "field 25 of a model is not known"),
        (lambda m: m.training_info.add(), "field 20 of a model is not known"),
        (lambda m: m.graph.sparse_initializer.add(), "field 15 of a graph is not known"),
        (lambda m: m.graph.node[0].attribute.append(make_attribute("evil", 1)), "never written"),
        (lambda m: setattr(m, "ir_version", 99), "version 99 of ONNX's format"),
        (lambda m: setattr(m.opset_import[0], "version", 24), "the manifest says"),
        (lambda m: m.opset_import.append(make_opsetid("evil", 1)), "the manifest says"),
        (lambda m: m.graph.node[5].output.append("logits"), "two values are called 'logits'"),
        (lambda m: m.graph.node[5].output.append("input_ids"), "two values are called"),
        (lambda m: m.graph.node[0].input.append("logits"), "which nothing before it gives"),
        (lambda m: m.graph.output.pop(), "output None, the manifest says"),
        (lambda m: m.graph.input.pop(), "input None, the manifest says"),
        (lambda m: setattr(m.graph.input[0], "name", "ids"), "input .*the manifest says"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 1), "manifest says"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 8), "manifest says"),
        (lambda m: m.graph.input[0].type.tensor_type.shape.dim.add(dim_value=5), "manifest says"),
        (lambda m: m.graph.output[0].type.tensor_type.ClearField("shape"), "there is no shape"),
        (lambda m: setattr(m.graph.node[-1], "op_type", "\x1b[31m\n"), r"operator '\\x1b"),
    ],
)
def test_graphs_that_are_none_of_ours_are_refused(bundle, edit, match):
    """In one line that names what it is."""
    data = edited(bundle, DECODER, edit)
    with pytest.raises(BundleError, match=match) as error:
        check(bundle, data)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (place("location", "../secret"), "lies in '../secret', no file of the manifest"),
        (place("location", "/etc/passwd"), "lies in '/etc/passwd', no file"),
        (place("location", "./weights.data"), "no file of the manifest"),
        (place("location", "manifest.json"), "no file of the manifest"),
        (place("offset", "-4096"), "begins at '-4096'"),
        (place("offset", "+0"), "begins at"),
        (place("offset", "1_0"), "begins at"),
        (place("offset", "٣"), "begins at"),
        (place("offset", "9" * 5000), "begins at"),
        (place("offset", str(2**40)), "beyond the end of weights.data"),
        (place("length", "0"), "has '0' bytes, its shape needs"),
        (place("length", "-1"), "has '-1' bytes, its shape needs"),
        (place("length", str(2**63)), "bytes, its shape needs"),
        (lambda m: outside(m).external_data.pop(), "weight .* lies at"),
        (lambda m: outside(m).external_data[1].ClearField("value"), "begins at ''|has '' bytes"),
        (lambda m: outside(m).external_data.add(key="checksum", value="0"), "weight .* lies at"),
        (lambda m: outside(m).external_data.add(key="offset", value="0"), "lie in two places"),
        (lambda m: outside(m).dims.append(10**6), "its shape needs"),
        (lambda m: outside(m).dims.append(-1), "has the shape"),
        (lambda m: outside(m).dims.append(2**62), "has the shape"),
        (lambda m: outside(m).dims.extend([1] * 10), "has the shape"),
        (lambda m: setattr(outside(m), "data_type", 11), "an unknown type"),
        (lambda m: setattr(outside(m), "data_type", 10), "its shape needs"),
        (lambda m: setattr(inside(m), "raw_data", b""), "has 0 bytes, its shape needs"),
        (lambda m: inside(m).dims.append(2), "its shape needs"),
        (lambda m: setattr(integers(m), "raw_data", b"12345"), "has 5 bytes, its shape needs"),
        (lambda m: inside(m).float_data.append(2), "field 4 of a initializer"),
        (lambda m: setattr(inside(m), "name", ""), "no name"),
        (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "that of another"),
        (lambda m: setattr(m.graph.initializer[0], "name", "input_ids"), "a weight as well"),
    ],
)
def test_weights_have_the_bytes_of_their_shapes_in_files_of_the_manifest(bundle, edit, match):
    """And nowhere else."""
    with pytest.raises(BundleError, match=match) as error:
        check(bundle, edited(bundle, DECODER, edit))
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 300


def test_an_encoder_in_the_place_of_a_decoder_is_refused(bundle):
    """And the other way round; with the manifest's words for it, by the dims."""
    encoder = bundle.file("encoder.onnxruntime.onnx").read_bytes()
    with pytest.raises(BundleError, match="the manifest says"):
        check(bundle, encoder)
    for file, role in (("encoder.onnx", "decoder"), (DECODER, "encoder")):
        record = dataclasses.replace(record_of(bundle, file), role=role)
        with pytest.raises(BundleError, match=f"differ from those of the dims' {role} by"):
            check_graph(bundle.file(file).read_bytes(), record, bundle.manifest, file)


def test_a_model_of_one_part_has_no_other(old_bundles):
    """A decoder-only one no encoder."""
    manifest = old_bundles["decoder-int8"].manifest
    record = dataclasses.replace(manifest.graphs[0], role="encoder")
    with pytest.raises(BundleError, match="encoder of a model of kind decoder"):
        check_contract(record, manifest, "graph")


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("logits", {"shape": ("rows", 95)}, "the dims say"),
        ("logits", {"dtype": "float16"}, "is float16, which it never is"),
        ("logits", {"shape": ("rows", "vocab")}, "the dims say"),
        ("past_key_0", {"shape": ("rows", 2, "capacity", 4096)}, "the dims say"),
        ("past_key_0", {"dtype": "int8"}, "which it never is"),
        ("input_ids", {"dtype": "int32"}, "which it never is"),
        ("cross_key_0", {"shape": ("batch", 2, 7, 8)}, "the dims say"),
    ],
)
def test_inputs_and_outputs_are_what_the_dims_say(bundle, name, change, match):
    """Whatever the manifest says of the graph."""
    record = record_of(bundle, DECODER)
    changed = {
        side: tuple(
            dataclasses.replace(tensor, **change) if tensor.name == name else tensor
            for tensor in getattr(record, side)
        )
        for side in ("inputs", "outputs")
    }
    with pytest.raises(BundleError, match=match):
        check_contract(dataclasses.replace(record, **changed), bundle.manifest, DECODER)


def constant(model: onnx.ModelProto, value: int) -> str:
    """The name of a new weight with that number."""
    raw = np.array([value], "<i8").tobytes()
    model.graph.initializer.append(make_tensor("evil", onnx.TensorProto.INT64, [1], raw, raw=True))
    return "evil"


def give(operator: str, place: int, name: str) -> Edit:
    """Let the first node of an operator read something else."""

    def edit(model: onnx.ModelProto) -> None:
        node = nodes(model, operator)[0]
        node.input.extend([""] * (place + 1 - len(node.input)))
        node.input[place] = name

    return edit


def subtract_more(model: onnx.ModelProto) -> None:
    """Lengths that become negative on the way to a kernel."""
    by_output = {name: node for node in model.graph.node for name in node.output}
    cast = by_output[nodes(model, "GroupQueryAttention")[0].input[5]]
    by_output[cast.input[0]].input[1] = constant(model, 10**5)


def swap_caches(model: onnx.ModelProto) -> None:
    """Two outputs that are written in place lie in each other's memory."""
    node = nodes(model, "GroupQueryAttention")[0]
    node.output[1], node.output[2] = node.output[2], node.output[1]


def attribute(operator: str, name: str, value: object) -> Edit:
    """Give the first node of an operator another attribute."""

    def edit(model: onnx.ModelProto) -> None:
        node = nodes(model, operator)[0]
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, make_attribute(name, value)])

    return edit


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (attribute("GroupQueryAttention", "num_heads", 0), "has num_heads 0"),
        (attribute("GroupQueryAttention", "kv_num_heads", -1), "has kv_num_heads -1"),
        (attribute("MultiHeadAttention", "num_heads", 2**62), "has num_heads 46116"),
        (attribute("Gather", "axis", -(2**63)), "has axis -92233"),
        (add_node("Split", ["logits"], ["a", "b"], num_outputs=1), "2 outputs, and says otherwise"),
    ],
)
def test_kernels_are_given_no_numbers_that_they_cannot_bear(bundle, edit, match):
    """ONNX Runtime 1.23 divides by them, or ends the process."""
    with pytest.raises(BundleError, match=match):
        check(bundle, edited(bundle, DECODER, edit))


def start_at(number: int) -> Edit:
    """Let a range begin there, which counts from zero."""

    def edit(model: onnx.ModelProto) -> None:
        raw = np.array(number, "<i8").tobytes()
        new = make_tensor("evil", onnx.TensorProto.INT64, [], raw, raw=True)
        model.graph.initializer.append(new)
        nodes(model, "Range")[0].input[0] = "evil"

    return edit


def computed_size(model: onnx.ModelProto) -> None:
    """Let a range be as long as a product of what the graph is given."""
    node = nodes(model, "Range")[0]
    place = list(model.graph.node).index(node)
    model.graph.node.insert(place, make_node("Mul", [node.input[1]] * 2, ["evil"]))
    node = nodes(model, "Range")[0]
    node.input[1] = "evil"


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (start_at(-(2**63)), "input 0 of Range is no size"),
        (start_at(2**40), "input 0 of Range is no size"),
        (start_at(-1), "not upwards from 0 nor down to 1"),
        (computed_size, "input 1 of Range is no size, 'evil'"),
    ],
)
def test_room_is_made_by_constants_shapes_and_lengths_alone(bundle, edit, match):
    """Nothing that a graph computes says how much memory a kernel takes."""
    with pytest.raises(BundleError, match=match):
        check(bundle, edited(bundle, DECODER, edit))


def longer_queries(model: onnx.ModelProto) -> None:
    """Twice as many new tokens as there are, of which the first half goes on."""
    node = nodes(model, "GroupQueryAttention")[0]
    place = list(model.graph.node).index(node)
    model.graph.node.insert(place, make_node("Concat", [node.input[0]] * 2, ["evil"], axis=1))
    nodes(model, "GroupQueryAttention")[0].input[0] = "evil"


def test_what_is_written_into_a_cache_is_as_long_as_the_new_tokens(bundle):
    """A longer one begins before the cache, or ends behind it."""
    data = edited(bundle, DECODER, longer_queries)
    with pytest.raises(BundleError, match="not shown to be as long as the new tokens"):
        check(bundle, data)


LENGTHS = "is .*, not "


@pytest.mark.parametrize(
    ("file", "edit", "match"),
    [
        (DECODER, subtract_more, LENGTHS),
        (DECODER, give("GroupQueryAttention", 5, "lengths_total"), LENGTHS),
        (DECODER, give("GroupQueryAttention", 6, "lengths_last_int32"), LENGTHS),
        (DECODER, give("GroupQueryAttention", 9, "input_ids"), "not left out"),
        (DECODER, give("GroupQueryAttention", 3, "past_value_0"), "reads caches"),
        (DECODER, swap_caches, "reads caches"),
        (DECODER, give("MultiHeadAttention", 4, "lengths_last_int32"), LENGTHS),
        (DECODER, give("MultiHeadAttention", 6, "past_key_0"), "not left out"),
        ("decoder.onnx", give("TensorScatter", 2, "new_length"), LENGTHS),
        ("decoder.onnx", give("TensorScatter", 0, "past_value_0"), "reads caches"),
        ("decoder.onnx", give("Attention", 6, "cache_length"), LENGTHS),
        ("encoder.onnx", give("Attention", 4, "source_length"), "not left out"),
    ],
)
def test_lengths_reach_kernels_from_the_inputs_by_one_way(bundle, file, edit, match):
    """ONNX Runtime 1.23 writes where they say, also before its memory begins."""
    with pytest.raises(BundleError, match=match):
        check(bundle, edited(bundle, file, edit), file)


@pytest.fixture
def small_memories(speaking, made_once) -> Bundle:
    """One whose encoder memories are caches to the decoder."""
    return Bundle.open(made_once(eight_bit_caches, speaking("bart"), memory=True).bundle.path)


def of_memory(change: Callable[[onnx.NodeProto, onnx.ModelProto], object]) -> Edit:
    """Change the first node that reads a memory as a cache."""

    def edit(model: onnx.ModelProto) -> None:
        kernels = nodes(model, "GroupQueryAttention")
        change(next(n for n in kernels if n.input[3].startswith("cross_")), model)

    return edit


def read_instead(place: int, name: str | int) -> Edit:
    """Let it read something else, or what its input of that number is."""
    return of_memory(
        lambda node, _: node.input.__setitem__(
            place, name if isinstance(name, str) else node.input[name]
        )
    )


def other_axis(model: onnx.ModelProto) -> None:
    """Let its length be the number of heads."""
    shape = next(n for n in nodes(model, "Shape") if n.input[0] == "cross_key_0")
    for attribute_ in shape.attribute:
        attribute_.i -= 1


def lengths_of_memories(model: onnx.ModelProto) -> None:
    """Let a cache's kernel go by the source's length."""
    kernels = nodes(model, "GroupQueryAttention")
    read = next(n for n in kernels if n.input[3].startswith("cross_")).input[5]
    node = next(n for n in kernels if n.input[3].startswith("past_") and n is not kernels[0])
    node.input[5] = read


def swap_presents(node: onnx.NodeProto, _: onnx.ModelProto) -> None:
    """Keys are given out as values."""
    node.output[1], node.output[2] = node.output[2], node.output[1]


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (read_instead(5, "lengths_last_int32"), LENGTHS),
        (read_instead(6, "lengths_total"), LENGTHS),
        (read_instead(5, 6), LENGTHS),
        (other_axis, LENGTHS),
        (lengths_of_memories, LENGTHS),
        (read_instead(1, 0), "input 1 of .*not shown to be of no token"),
        (read_instead(1, ""), "input 1 of .*not shown to be of no token"),
        (read_instead(2, 0), "input 2 of .*not shown to be of no token"),
        (read_instead(4, "past_value_0"), "reads both a cache and a memory"),
        (read_instead(4, "cross_key_0"), "reads caches"),
        (of_memory(swap_presents), "reads caches"),
    ],
)
def test_nothing_is_written_into_memories(small_memories, edit, match):
    """Their kernel could: it is that of caches."""
    file = small_memories.file(DECODER)
    check(small_memories, file.read_bytes())
    with pytest.raises(BundleError, match=match):
        check(small_memories, edited(small_memories, DECODER, edit))


def test_memories_have_8_bits_where_the_manifest_says_so(small_memories):
    """Only then the decoder gives them out."""
    record, manifest = record_of(small_memories, DECODER), small_memories.manifest
    assert manifest.quantization is not None
    floats = dataclasses.replace(manifest.quantization, memory="activations")
    with pytest.raises(BundleError, match="cross_key_0 is int8, which it never is"):
        check_contract(record, dataclasses.replace(manifest, quantization=floats), DECODER)
    outputs = tuple(put for put in record.outputs if put.name != "present_cross_key_0")
    with pytest.raises(BundleError, match="differ from those of the dims' decoder by"):
        check_contract(dataclasses.replace(record, outputs=outputs), manifest, DECODER)


def hostile(bundle: Bundle, folder: Path, edit: Edit) -> Path:
    """The bundle with a changed decoder and the hashes of it."""
    folder.mkdir()
    for name in bundle.manifest.files:
        (folder / name).write_bytes(bundle.file(name).read_bytes())
    (folder / DECODER).write_bytes(edited(bundle, DECODER, edit))
    values = json.loads((bundle.path / "manifest.json").read_bytes())
    values["files"][DECODER] = dataclasses.asdict(fingerprint(folder / DECODER))
    (folder / "manifest.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def test_loading_and_verifying_refuse_weights_from_elsewhere(bundle, tmp_path):
    """Before ONNX Runtime, whose release 1.23 reads them, is given the graph."""
    (tmp_path / "secret").write_bytes(bytes(10**6))
    path = hostile(bundle, tmp_path / "bundle", place("location", "../secret"))
    with pytest.raises(BundleError, match=r"lies in '\.\./secret', no file of the manifest"):
        seq2edge.load(path)
    with pytest.raises(BundleError, match=r"lies in '\.\./secret', no file of the manifest"):
        list(verify_graphs(Bundle.open(path)))


def try_check(data: bytes, record: GraphRecord, manifest: Manifest) -> None:
    """Accepted or refused in one line, never anything else."""
    refusal = ""
    try:
        check_graph(data, record, manifest, "graph")
    except BundleError as error:
        refusal = str(error)
    assert refusal.isprintable()


@settings(max_examples=150)
@given(st.data())
def test_mutated_graphs_are_accepted_or_refused(old_bundles, old_graphs, data):
    """Bytes changed, cut out, doubled and moved from one graph into another."""
    name = data.draw(st.sampled_from(sorted(old_graphs)))
    graph = bytearray(old_graphs[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(graph)))
        until = min(len(graph), at + data.draw(st.integers(0, 40)))
        other = old_graphs[data.draw(st.sampled_from(sorted(old_graphs)))]
        start = data.draw(st.integers(0, len(other)))
        piece = data.draw(
            st.one_of(st.binary(max_size=12), st.just(other[start : start + 60]), st.just(b""))
        )
        graph[at:until] = piece
    bundle = old_bundles[name.partition("/")[0]]
    try_check(bytes(graph), record_of(bundle, name.partition("/")[2]), bundle.manifest)


def rewire(model: onnx.ModelProto, draw: Callable[[st.SearchStrategy[int]], int]) -> None:
    """One change: of an operator, its inputs, an attribute, or of a weight's shape."""

    def chosen(values: Sequence[object]) -> object:
        return values[draw(st.integers(0, len(values) - 1))]

    node = chosen(model.graph.node)
    assert isinstance(node, onnx.NodeProto)
    names = [w.name for w in model.graph.initializer] + [i.name for i in model.graph.input]
    kind = draw(st.integers(0, 5))
    if kind == 0:
        node.op_type = str(chosen(sorted(STANDARD)))
        del node.attribute[:]
    elif kind == 1:
        node.input.append(str(chosen(names)))
    elif kind == 2 and node.input:
        node.input[draw(st.integers(0, len(node.input) - 1))] = str(chosen([*names, ""]))
    elif kind == 3 and node.input:
        del node.input[draw(st.integers(0, len(node.input) - 1)) :]
    elif kind == 4 and node.attribute:
        number = draw(st.integers(-(2**63), 2**63 - 1))
        attribute = node.attribute[0]
        value = [number] * 3 if attribute.type == onnx.AttributeProto.INTS else number
        attribute.CopyFrom(make_attribute(attribute.name, value))
    else:
        tensor = chosen([w for w in model.graph.initializer if w.data_type == 7 and w.raw_data])
        assert isinstance(tensor, onnx.TensorProto)
        size = len(tensor.raw_data) // 8
        values = [draw(st.integers(-4, 9)) for _ in range(size)]
        tensor.raw_data = np.array(values, "<i8").tobytes()


@settings(max_examples=150)
@given(st.data())
def test_rewired_graphs_are_accepted_or_refused(old_bundles, old_graphs, data):
    """Well-formed files of operators that do not fit each other."""
    name = data.draw(st.sampled_from(sorted(old_graphs)))
    model = onnx.load_from_string(old_graphs[name])
    for _ in range(data.draw(st.integers(1, 8))):
        rewire(model, data.draw)
    bundle = old_bundles[name.partition("/")[0]]
    record = record_of(bundle, name.partition("/")[2])
    try_check(model.SerializeToString(), record, bundle.manifest)


@settings(max_examples=150)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused(old_bundles, data):
    """In one line."""
    bundle = old_bundles["encoder-decoder"]
    with pytest.raises(BundleError) as error:
        check(bundle, data)
    assert str(error.value).isprintable()
