"""The lowered graphs answer as the canonical ones do, with operators that old parsers read."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import tiny_models

from seq2edge.bundle import Bundle
from seq2edge.errors import ExportError
from seq2edge.export.parser_operators import PARSERS
from seq2edge.export.passes.length_to_mask import LengthToMask
from seq2edge.export.passes.lower_to_opset18 import LowerToOpset18
from seq2edge.runtime import parity
from seq2edge.runtime.backends.onnxruntime import OnnxRuntimeBackend
from seq2edge.runtime.model import Model

# What TensorRT 10.3 reads of any family, written out: a change of the list is seen here.
READ = set(
    "Add And Cast Concat Conv Cos Div Equal Erf Expand Gather GatherND Gemm Greater"
    " LayerNormalization Less LessOrEqual MatMul Max Min Mul Not Pow Range ReduceMean ReduceSum"
    " Relu Reshape ScatterND Shape Sigmoid Sin Softmax Split Sqrt Squeeze Sub Tanh Transpose"
    " Unsqueeze Where".split()
)


class LoweredBackend(OnnxRuntimeBackend):
    """Runs a bundle's canonical graphs after both passes."""

    def __init__(self, bundle, folder):
        self.folder = folder
        super().__init__(bundle, target="canonical", threads=1)

    def _open(self, bundle, graph, threads):
        path = self.folder / graph.file
        ir.save(lowered(bundle.file(graph.file)), path, external_data=f"{graph.role}.data")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def lowered(path):
    """The graph of that file after both passes."""
    model = ir.load(path)
    LengthToMask()(model)
    LowerToOpset18()(model)
    return model


@pytest.fixture
def opened(exported, tmp_path):
    """Opens a tiny model's bundle with its canonical and its lowered backend."""

    def get(name):
        bundle = Bundle.open(exported(name)[1] / "bundle")
        canonical = OnnxRuntimeBackend(bundle, target="canonical", threads=1)
        return bundle, canonical, LoweredBackend(bundle, tmp_path)

    return get


def edge(values):
    """Names, types and axes of a graph's inputs or outputs."""
    return [(v.name, v.dtype, [str(axis) for axis in v.shape]) for v in values]


@pytest.mark.parametrize("name", tiny_models.ALL)
def test_old_parsers_read_every_family(exported, name, tmp_path):
    """Opset 18, valid, listed operators in the listed form, and the contract as it was."""
    for path in (exported(name)[1] / "bundle").glob("*coder.onnx"):
        model = lowered(path)
        ir.save(model, tmp_path / path.name, external_data=f"{path.stem}.data")
        onnx.checker.check_model(tmp_path / path.name, full_check=True)
        assert dict(model.opset_imports) == {"": 18}
        canonical = ir.load(path).graph
        assert edge(model.graph.inputs) == edge(canonical.inputs)
        assert edge(model.graph.outputs) == edge(canonical.outputs)
        for node in model.graph:
            assert node.op_type in READ
            assert "reduction" not in node.attributes
            if node.op_type in ("Squeeze", "Unsqueeze", "ReduceMean", "ReduceSum"):
                assert node.inputs[1].is_initializer()
            assert all(len(v.shape) <= 4 for v in node.outputs), f"{node.name} has five axes"
            assert all(v.dtype is not None for v in node.outputs)


@pytest.mark.parametrize("name", tiny_models.ALL)
def test_lowered_graphs_answer_as_the_canonical_ones(opened, name):
    """Unequal rows, prefill, steps with two beams an input: the same tokens and logits."""
    bundle, canonical, low = opened(name)
    options = bundle.manifest.generation or {}
    start = options.get("decoder_start_token_id")
    inputs = parity.make_inputs(bundle.manifest.dims, () if start is None else (start,), seed=5)
    if bundle.manifest.dims.mels:
        inputs["source_length"] = np.array([bundle.manifest.dims.frames // 5])
    found = parity.replay(low, parity.record(canonical, inputs))
    assert found.max_absolute < 2e-5
    assert found.tokens_equal == found.tokens_compared


@pytest.mark.parametrize("name", tiny_models.GENERATORS)
@pytest.mark.parametrize("beams", [1, 4])
def test_the_decode_loop_gives_the_same_sequences(opened, name, beams):
    """Greedy and beam search of a batch of unequal lengths."""
    bundle, *backends = opened(name)
    dims, found = bundle.manifest.dims, []
    for backend in backends:
        model = Model(bundle, backend)
        options = model.options.replace(
            max_new_tokens=20, max_length=None, eos_token_id=(), num_beams=beams
        )
        rng = np.random.default_rng(3)
        if dims.mels:
            clips = rng.standard_normal((2, dims.mels, dims.frames), dtype=np.float32)
            found.append(model.transcribe_ids(clips, options))
        else:
            prompts = [rng.integers(3, tiny_models.VOCAB - 16, n).tolist() for n in (7, 40, 9)]
            found.append(model.generate_ids(prompts, options))
    wanted, low = ([s for sequences in each for s in sequences] for each in found)
    assert [s.ids for s in low] == [s.ids for s in wanted]
    assert [s.score for s in low] == pytest.approx([s.score for s in wanted], abs=1e-4)


@pytest.mark.parametrize("name", ["t5", "bart", "mistral", "qwen3"])
def test_several_tokens_go_onto_pasts_of_unequal_lengths(opened, name):
    """A prompt in pieces: padding of short rows is written over, and never seen."""
    bundle, *backends = opened(name)
    rng = np.random.default_rng(4)
    pieces = [
        (rng.integers(3, 80, (3, new)), np.array(lengths))
        for new, lengths in ((5, [5, 2, 4]), (4, [1, 4, 2]), (1, [1, 1, 1]))
    ]
    logits = []
    for backend in backends:
        memory = None
        if bundle.manifest.dims.encoder is not None:
            memory = backend.encode(
                np.array([[5, 6, 7], [8, 9, 0], [3, 0, 0]]), np.array([3, 2, 1])
            )
        cache = backend.start(memory, 3, 16)
        logits.append([backend.step(*piece, cache).copy() for piece in pieces])
    np.testing.assert_allclose(logits[1], logits[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["bart", "llama", "t5"])
def test_layers_share_what_is_the_same(exported, name):
    """Places in the cache, angles and folded masks are made once a graph."""
    model = lowered(exported(name)[1] / "bundle" / "decoder.onnx")
    scatters = [node for node in model.graph if node.op_type == "ScatterND"]
    assert len(scatters) == 4
    assert len({node.inputs[1] for node in scatters}) == 1
    masks = {n.inputs[1] for n in model.graph if _is_masked_score(n)}
    assert len(masks) == 1 + (name != "llama")


def _is_masked_score(node):
    readers = [reader.op_type for reader in node.outputs[0].consumers()]
    return node.op_type == "Add" and readers == ["Softmax"]


def value_of(name, shape, dtype):
    """A graph's input."""
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def model_of(node, inputs, outputs):
    """One node as a model; `outputs` are (shape, type) of its results, opset 24."""
    for index, (output, (shape, dtype)) in enumerate(zip(node.outputs, outputs, strict=True)):
        output.name, output.shape = f"result_{index}", ir.Shape(shape)
        output.type = ir.TensorType(dtype)
    graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"": 24}, name="g")
    return ir.Model(graph, ir_version=10)


def run(model, feeds):
    """Every output of a valid model."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


FLOATS = {"float32": (ir.DataType.FLOAT, 1e-5), "float16": (ir.DataType.FLOAT16, 4e-3)}


def compare(model, feeds, dtype="float32", scale=1.0):
    """The same numbers before and after the pass; returns them."""
    wanted = run(model, feeds)
    LowerToOpset18()(model)
    assert model.opset_imports[""] == 18
    found = run(model, feeds)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        ours, theirs = ours.astype(np.float32), theirs.astype(np.float32)  # noqa: PLW2901
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, theirs, atol=FLOATS[dtype][1] * scale, rtol=0)
    return found


def attention(kind, mask, heads=4, kv_heads=2, **attributes):
    """One attention over 6 keys of 8; `mask` is the mask's (batch, heads, new), or None."""
    shapes = {
        "query": ("batch", heads, "new", 8),
        "key": ("batch", kv_heads, "total", 8),
        "value": ("batch", kv_heads, "total", 8),
    }
    if mask is not None:
        shapes["mask"] = (*mask, "total")
    inputs = [value_of(name, shape, kind) for name, shape in shapes.items()]
    node = ir.node("Attention", inputs, attributes, name="attention")
    return model_of(node, inputs, [(("batch", heads, "new", 8), kind)])


def drawn(model, dtype, **sizes):
    """Random numbers for every input of a model."""
    rng = np.random.default_rng(2)
    return {
        value.name: rng.standard_normal(
            [n if isinstance(n, int) else sizes[n.value] for n in value.shape]
        ).astype(dtype)
        for value in model.graph.inputs
    }


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize(
    "mask", [None, ("batch", 1, "new"), (1, 4, "new"), ("batch", 4, "new"), ("batch", 1, 1)]
)
def test_attention_of_every_form(dtype, kv_heads, mask):
    """Grouped queries or not, masks for rows, heads and queries or for some of them."""
    model = attention(FLOATS[dtype][0], mask, kv_heads=kv_heads, scale=0.3)
    feeds = drawn(model, dtype, batch=3, new=3, total=6)
    if mask == ("batch", 1, 1):  # the operator's own kernel wants every query's mask
        model = attention(FLOATS[dtype][0], ("batch", 1, "new"), kv_heads=kv_heads, scale=0.3)
        wide = {**feeds, "mask": feeds["mask"].repeat(3, axis=2)}
        wanted = run(model, wide)[0].astype(np.float32)
        model = attention(FLOATS[dtype][0], mask, kv_heads=kv_heads, scale=0.3)
        LowerToOpset18()(model)
        found = run(model, feeds)[0].astype(np.float32)
        np.testing.assert_allclose(found, wanted, atol=FLOATS[dtype][1], rtol=0)
        return
    compare(model, feeds, dtype)


def test_attention_without_a_scale_has_the_usual_one():
    """One over the square root of head_dim; a scale of one costs no node."""
    model = attention(ir.DataType.FLOAT, None)
    compare(model, drawn(model, "float32", batch=2, new=3, total=6))
    plain = attention(ir.DataType.FLOAT, None, scale=1.0)
    compare(plain, drawn(plain, "float32", batch=2, new=3, total=6))
    assert "Mul" not in {node.op_type for node in plain.graph}


def test_scores_stay_in_the_range_of_float16():
    """The query is scaled before the product, which would be 80,000 without."""
    model = attention(ir.DataType.FLOAT16, None, kv_heads=4, scale=0.01)
    feeds = {v.name: np.full((1, 4, 2, 8), 100.0, dtype=np.float16) for v in model.graph.inputs}
    assert np.isfinite(compare(model, feeds, "float16")[0]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"is_causal": 1}, "a past or is_causal; run length_to_mask first"),
        ({"softcap": 3.0}, "a past or softcap; run"),
    ],
)
def test_attention_that_is_not_masked_is_an_error(change, message):
    """What the pass before this one turns into masks."""
    with pytest.raises(ExportError, match=message):
        LowerToOpset18()(attention(ir.DataType.FLOAT, None, **change))


def test_lengths_are_an_error():
    """They would vanish."""
    model = attention(ir.DataType.FLOAT, ("batch", 1, "new"))
    node = model.graph[-1]
    node.resize_inputs(7)
    node.replace_input_with(6, value_of("length", ("batch",), ir.DataType.INT64))
    with pytest.raises(ExportError, match="attention has lengths"):
        LowerToOpset18()(model)


def test_a_boolean_mask_is_an_error():
    """It cannot be added."""
    model = attention(ir.DataType.FLOAT, ("batch", 1, "new"))
    model.graph.inputs[3].type = ir.TensorType(ir.DataType.BOOL)
    with pytest.raises(ExportError, match="a mask of another type than its query"):
        LowerToOpset18()(model)


def test_attention_of_merged_heads_is_an_error():
    """The three-dimensional form of the operator."""
    model = attention(ir.DataType.FLOAT, None)
    model.graph.inputs[0].shape = ir.Shape(["batch", "new", 32])
    with pytest.raises(ExportError, match=r"not \(batch, heads, length, head_dim\)"):
        LowerToOpset18()(model)


def test_attention_of_unknown_heads_is_an_error():
    """Groups are a matter of two numbers."""
    model = attention(ir.DataType.FLOAT, None)
    model.graph.inputs[1].shape = ir.Shape(["batch", "heads", "total", 8])
    with pytest.raises(ExportError, match="no fixed number of heads"):
        LowerToOpset18()(model)


def cache_write(dtype=ir.DataType.FLOAT, axis=2, mode="linear"):
    """One TensorScatter."""
    cache, update = ("rows", 2, "capacity", 4), ("rows", 2, "new", 4)
    inputs = [value_of("cache", cache, dtype), value_of("update", update, dtype)]
    inputs.append(value_of("start", ("rows",), ir.DataType.INT64))
    node = ir.node("TensorScatter", inputs, {"axis": axis, "mode": mode}, name="write")
    return model_of(node, inputs, [(cache, dtype)])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("new", "starts"), [(3, [0, 4, 1]), (1, [6, 0, 3]), (7, [0, 0, 0])])
def test_a_cache_is_written_where_each_row_ends(dtype, new, starts):
    """The very values, at each row's own place, and nothing else changed."""
    rng = np.random.default_rng(6)
    feeds = {
        "cache": rng.standard_normal((3, 2, 7, 4)).astype(dtype),
        "update": rng.standard_normal((3, 2, new, 4)).astype(dtype),
        "start": np.array(starts),
    }
    model = cache_write(FLOATS[dtype][0])
    wanted = run(model, feeds)[0]
    assert np.array_equal(compare(model, feeds, dtype)[0], wanted)


@pytest.mark.parametrize("change", [{"axis": 1}, {"mode": "circular"}])
def test_another_kind_of_write_is_an_error(change):
    """Along another axis, or around the end."""
    with pytest.raises(ExportError, match="write is no linear write along axis 2"):
        LowerToOpset18()(cache_write(**change))


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_root_mean_square_of_large_values_does_not_overflow(dtype):
    """The square of 300 is no float16; the operator computes in float32."""
    kind = FLOATS[dtype][0]
    inputs = [value_of("x", ("rows", "new", 8), kind), value_of("scale", (8,), kind)]
    node = ir.node("RMSNormalization", inputs, {"axis": -1, "epsilon": 1e-6}, name="norm")
    model = model_of(node, inputs, [(("rows", "new", 8), kind)])
    feeds = drawn(model, dtype, rows=2, new=3)
    feeds["x"] = feeds["x"] * np.array(900, dtype=dtype)
    assert np.abs(feeds["x"]).max() > 300
    compare(model, feeds, dtype)


def test_a_norm_of_several_axes_is_an_error():
    """No model here has one."""
    x = value_of("x", ("rows", "new", 8), ir.DataType.FLOAT)
    node = ir.node("RMSNormalization", [x, x], {"axis": 1}, name="norm")
    with pytest.raises(ExportError, match="norm normalises more than the last axis"):
        LowerToOpset18()(model_of(node, [x], [(("rows", "new", 8), ir.DataType.FLOAT)]))


def rotation(dtype=ir.DataType.FLOAT, **attributes):
    """Two heads of 8 turned."""
    x, angles = ("rows", "new", 16), ("rows", "new", 4)
    inputs = [value_of(n, s, dtype) for n, s in (("x", x), ("cos", angles), ("sin", angles))]
    node = ir.node("RotaryEmbedding", inputs, {"num_heads": 2, **attributes}, name="turn")
    return model_of(node, inputs, [(x, dtype)])


@pytest.mark.parametrize("dtype", FLOATS)
def test_halves_are_turned_together(dtype):
    """Not neighbours."""
    model = rotation(FLOATS[dtype][0], interleaved=0)
    compare(model, drawn(model, dtype, rows=3, new=5), dtype)


def test_another_rotation_is_an_error():
    """Of neighbours, or of a part of each head."""
    for attributes in ({"interleaved": 1}, {"rotary_embedding_dim": 4}):
        with pytest.raises(ExportError, match="turn is no rotation of halves"):
            LowerToOpset18()(rotation(**attributes))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_exact_and_by_tanh(dtype, approximate):
    """Over the whole range, where cubes overflow float16 too."""
    kind = FLOATS[dtype][0]
    x = value_of("x", ("n",), kind)
    node = ir.node("Gelu", [x], {"approximate": approximate}, name="gelu")
    model = model_of(node, [x], [(("n",), kind)])
    points = np.concatenate([np.linspace(-6, 6, 97), [-3e4, -50, 50, 3e4]]).astype(dtype)
    found = compare(model, {"x": points}, dtype, scale=2.0 if dtype == "float16" else 1.0)[0]
    assert found[-4:].tolist() == [0, 0, 50, points[-1]]


@pytest.mark.parametrize("limits", [("least", "most"), ("least", None), (None, "most")])
def test_integers_are_clipped_by_max_and_min(limits):
    """With both limits or one; floats keep their Clip."""
    integer = ir.DataType.INT64
    x = value_of("x", ("n",), integer)
    given = [value_of(name, (), integer) if name else None for name in limits]
    node = ir.node("Clip", [x, *given], name="clip")
    model = model_of(node, [x, *(v for v in given if v)], [(("n",), integer)])
    feeds = {"x": np.arange(-5, 6), "least": np.array(-2), "most": np.array(3)}
    compare(model, {v.name: feeds[v.name] for v in model.graph.inputs})
    assert {n.op_type for n in model.graph} <= {"Max", "Min"}


def test_floats_keep_their_clip():
    """Old parsers read it."""
    x = value_of("x", ("n",), ir.DataType.FLOAT)
    model = model_of(ir.node("Clip", [x], name="clip"), [x], [(("n",), ir.DataType.FLOAT)])
    compare(model, {"x": np.ones(2, dtype=np.float32)})
    assert [n.op_type for n in model.graph] == ["Clip"]


def test_squeezed_axes_are_named():
    """All of size one; an axis of no known size cannot be told."""
    x = value_of("x", (1, 4, 1), ir.DataType.FLOAT)
    model = model_of(ir.node("Squeeze", [x], name="s"), [x], [((4,), ir.DataType.FLOAT)])
    compare(model, {"x": np.ones((1, 4, 1), dtype=np.float32)})
    assert model.graph[-1].inputs[1].const_value.numpy().tolist() == [0, 2]
    x = value_of("x", (1, "n"), ir.DataType.FLOAT)
    model = model_of(ir.node("Squeeze", [x], name="s"), [x], [(("n",), ir.DataType.FLOAT)])
    with pytest.raises(ExportError, match="s squeezes axes that are not known"):
        LowerToOpset18()(model)


def test_equal_parts_get_their_lengths():
    """Of an axis of known size that they divide."""
    kind = ir.DataType.FLOAT
    x = value_of("x", ("n", 6), kind)
    node = ir.node("Split", [x], {"axis": 1, "num_outputs": 2}, num_outputs=2, name="split")
    model = model_of(node, [x], [(("n", 3), kind), (("n", 3), kind)])
    compare(model, {"x": np.arange(12, dtype=np.float32).reshape(2, 6)})
    assert model.graph[-1].inputs[1].const_value.numpy().tolist() == [3, 3]
    x = value_of("x", ("n", 6), kind)
    node = ir.node("Split", [x], {"axis": 0, "num_outputs": 2}, num_outputs=2, name="split")
    with pytest.raises(ExportError, match="split splits an axis that is not known"):
        LowerToOpset18()(model_of(node, [x], [(("n", 6), kind), (("n", 6), kind)]))


@pytest.mark.parametrize(
    ("operator", "dtype", "message"),
    [
        ("Swish", ir.DataType.FLOAT, r"TensorRT 10\.3 does not read it, Swish of float$"),
        ("Sigmoid", ir.DataType.DOUBLE, "Sigmoid of double"),
        ("Relu", ir.DataType.BOOL, "Relu of bool"),
        ("Sqrt", ir.DataType.INT64, "Sqrt of int64"),
    ],
)
def test_what_the_parser_does_not_read_is_an_error(operator, dtype, message):
    """By the operator, or by the type of its data."""
    x = value_of("x", ("n",), dtype)
    model = model_of(ir.node(operator, [x], name="it"), [x], [(("n",), dtype)])
    with pytest.raises(ExportError, match=message):
        LowerToOpset18()(model)


def test_operators_of_other_domains_are_an_error():
    """A parser knows the standard ones alone."""
    x = value_of("x", ("n",), ir.DataType.FLOAT)
    node = ir.node("Relu", [x], domain="com.microsoft", name="it")
    with pytest.raises(ExportError, match="does not read it"):
        LowerToOpset18()(model_of(node, [x], [(("n",), ir.DataType.FLOAT)]))


@pytest.mark.parametrize(
    ("kind", "scale", "attributes", "opset"),
    [
        (ir.DataType.INT8, ir.DataType.FLOAT, {"axis": 1}, 18),
        (ir.DataType.INT8, ir.DataType.FLOAT16, {"axis": 1}, 19),
        (ir.DataType.INT4, ir.DataType.FLOAT16, {"axis": 0, "block_size": 2}, 21),
    ],
)
def test_quantized_weights_say_which_opset_they_need(kind, scale, attributes, opset):
    """Scales in half precision came with 19, blocks and 4 bits with 21."""
    scales = (2, 4) if "block_size" in attributes else (4,)
    inputs = [value_of("q", (4, 4), kind), value_of("s", scales, scale)]
    node = ir.node("DequantizeLinear", inputs, attributes, name="weight")
    model = model_of(node, inputs, [((4, 4), scale)])
    if opset > 18:
        with pytest.raises(ExportError, match=f"needs opset {opset}, TensorRT 9 reads up to 18"):
            LowerToOpset18(dataclasses.replace(PARSERS["10.3"], release="9", opset=18))(model)
    LowerToOpset18()(model)
    assert model.opset_imports[""] == opset
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
