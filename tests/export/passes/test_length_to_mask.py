"""The masked graphs answer as the canonical ones do, in ONNX Runtime, which honours lengths."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import tiny_models

from seq2edge.bundle import Bundle
from seq2edge.errors import ExportError
from seq2edge.export.passes.length_to_mask import MASKED, LengthToMask
from seq2edge.runtime import parity
from seq2edge.runtime.backends.onnxruntime import OnnxRuntimeBackend

FLOATS = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
BATCH, HEADS, KV_HEADS, NEW, TOTAL, HEAD_DIM = 3, 4, 2, 3, 6, 8


class MaskedBackend(OnnxRuntimeBackend):
    """Runs a bundle's canonical graphs after the pass."""

    def __init__(self, bundle, folder):
        self.folder = folder
        super().__init__(bundle, target="canonical", threads=1)

    def _open(self, bundle, graph, threads):
        model = ir.load(bundle.file(graph.file))
        assert LengthToMask()(model).modified
        path = self.folder / graph.file
        ir.save(model, path, external_data="masked.data")
        onnx.checker.check_model(path, full_check=True)
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", [*tiny_models.ALL, *tiny_models.FOREIGN])
def test_masked_graphs_answer_as_the_canonical_ones(exported, name, tmp_path):
    """Unequal rows, prefill, steps with two beams an input: the same tokens and logits."""
    _, folder, _ = exported(name)
    bundle = Bundle.open(folder / "bundle")
    options = bundle.manifest.generation or {}
    start = options.get("decoder_start_token_id")
    inputs = parity.make_inputs(bundle.manifest.dims, () if start is None else (start,), seed=5)
    if positions := bundle.manifest.dims.source_positions:
        inputs["source_length"] = np.array([2 * positions // 5])
    canonical = OnnxRuntimeBackend(bundle, target="canonical", threads=1)
    found = parity.replay(MaskedBackend(bundle, tmp_path), parity.record(canonical, inputs))
    assert found.max_absolute < 2e-5
    assert found.tokens_equal == found.tokens_compared


@pytest.mark.parametrize("name", ["t5", "bart", "mistral", "bert"])
def test_layers_share_one_mask_a_kind(exported, name):
    """A decoder: one for its cache, one for the source. No length or infinity is left."""
    _, folder, _ = exported(name)
    for path in (folder / "bundle").glob("*coder.onnx"):
        model = ir.load(path)
        LengthToMask()(model)
        attentions = [node for node in model.graph if node.op_type == "Attention"]
        masks = {node.inputs[3] for node in attentions}
        cross = any(value.name == "cross_key_0" for value in model.graph.inputs)
        assert len(masks) == 1 + cross
        assert {len(node.inputs) for node in attentions} == {4}
        assert {mask.dtype for mask in masks} == {ir.DataType.FLOAT}
        assert all(mask.producer().op_type in ("Where", "Max") for mask in masks)


@pytest.mark.parametrize("name", ["t5", "mistral", "distilbert"])
def test_squeezed_axes_are_named(exported, name):
    """TensorRT's parser needs them before 11.5, which a Jetson does not have."""
    _, folder, _ = exported(name)
    for path in (folder / "bundle").glob("*coder.onnx"):
        model = ir.load(path)
        LengthToMask()(model)
        squeezes = [node for node in model.graph if node.op_type == "Squeeze"]
        assert squeezes
        assert {len(node.inputs) for node in squeezes} == {2}


def attention(dtype, mask=None, *, length=False, **attributes):
    """One attention of grouped heads as a model; `mask` is its type or None."""
    kind = ir.DataType.from_numpy(np.dtype(FLOATS[dtype]))

    def value(name, shape, of=kind):
        return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(of))

    keys = ("batch", KV_HEADS, "total", HEAD_DIM)
    inputs = [value("query", ("batch", HEADS, "new", HEAD_DIM)), value("key", keys)]
    inputs.append(value("value", keys))
    slots = [*inputs, None, None, None, None]
    if mask is not None:
        of = ir.DataType.BOOL if mask == "bool" else ir.DataType[mask]
        slots[3] = value("mask", ("batch", 1, "new", "total"), of)
    if length:
        slots[6] = value("length", ("batch",), ir.DataType.INT64)
    while slots[-1] is None:
        slots.pop()
    node = ir.node("Attention", slots, {"scale": 0.3, **attributes}, name="attention")
    output = node.outputs[0]
    output.name, output.type = "seen", ir.TensorType(kind)
    output.shape = ir.Shape(("batch", HEADS, "new", HEAD_DIM))
    given = [slot for slot in slots if slot is not None]
    graph = ir.Graph(given, [output], nodes=[node], opset_imports={"": 24}, name="g")
    return ir.Model(graph, ir_version=10)


def run(model, feeds):
    """The only output."""
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = {value.name for value in session.get_inputs()}
    return session.run(None, {name: feed for name, feed in feeds.items() if name in names})[0]


def feeds_of(dtype, lengths, mask=None):
    """Random tensors; every row of a mask sees its first key."""
    rng = np.random.default_rng(2)
    draw = lambda *shape: rng.standard_normal(shape).astype(FLOATS[dtype])  # noqa: E731
    seen = rng.random((BATCH, 1, NEW, TOTAL)) < 0.7
    seen[..., 0] = True
    additive = np.where(seen, rng.standard_normal(seen.shape), -np.inf)
    return {
        "query": draw(BATCH, HEADS, NEW, HEAD_DIM),
        "key": draw(BATCH, KV_HEADS, TOTAL, HEAD_DIM),
        "value": draw(BATCH, KV_HEADS, TOTAL, HEAD_DIM),
        "mask": seen if mask == "bool" else additive.astype(FLOATS[dtype]),
        "length": np.array(lengths),
    }


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize(
    ("mask", "length"), [(None, True), ("bool", True), ("float", True), ("bool", False)]
)
def test_every_form_computes_the_same(dtype, causal, mask, length):
    """Lengths, boolean and additive masks, causality, together and alone, in both floats."""
    kind = "FLOAT" if dtype == "float32" else "FLOAT16"
    model = attention(dtype, kind if mask == "float" else mask, length=length, is_causal=causal)
    feeds = feeds_of(dtype, [6, 4, 3], mask)
    wanted = run(model, feeds)
    LengthToMask()(model)
    assert "is_causal" not in model.graph[-1].attributes
    found = run(model, feeds)
    tolerance = 1e-5 if dtype == "float32" else 4e-3
    np.testing.assert_allclose(
        found.astype(np.float32), wanted.astype(np.float32), atol=tolerance, rtol=0
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("mask", [None, "FLOAT", "FLOAT16"])
def test_a_row_without_any_valid_key_gives_numbers(dtype, mask):
    """A length of zero, and an additive mask of minus infinities: a mean of values, never NaN."""
    if mask is not None and mask.lower() != dtype.replace("32", ""):
        pytest.skip("the operator takes masks of the query's type")
    model = attention(dtype, mask, length=True)
    LengthToMask()(model)
    feeds = feeds_of(dtype, [0, 6, 0])
    feeds["mask"] = np.full((BATCH, 1, NEW, TOTAL), -np.inf, dtype=FLOATS[dtype])
    feeds["query"] *= 50  # scores of hundreds, which must not carry the mask over the edge
    found = run(model, feeds)
    assert np.isfinite(found).all()
    model.graph.outputs[0] = model.graph[-1].inputs[3]  # a kernel elsewhere may not survive this
    assert np.isfinite(run(model, feeds)).all()
    assert np.abs(found).max() <= np.abs(feeds["value"]).max() + 1e-2


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_masked_score_overflows_in_no_float(dtype):
    """Kernels may add in the mask's own type: a score of thousands stays a number, and hidden."""
    number = FLOATS[dtype]
    for score in (-30000.0, 0.0, 30000.0):
        masked = np.array([score], dtype=number) + np.array([MASKED], dtype=number)
        assert np.isfinite(masked.astype(np.float32)).all()
        assert masked[0] < -2000


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_mask_has_the_type_of_the_query(dtype):
    """bfloat16 too, which ONNX Runtime's CPU kernels do not run."""
    model = attention(dtype, length=True)
    LengthToMask()(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    node = model.graph[-1]
    assert node.inputs[3].dtype == node.inputs[0].dtype
    stored = [v.const_value for v in model.graph.initializers.values() if str(MASKED) in v.name]
    assert [float(tensor.numpy()) for tensor in stored] == [MASKED]


def test_a_mask_of_another_type_is_cast():
    """A float32 bias beside a float16 query."""
    model = attention("float16", "FLOAT", length=True)
    LengthToMask()(model)
    assert model.graph[-1].inputs[3].dtype == ir.DataType.FLOAT16
    assert "Cast" in {node.op_type for node in model.graph}


def test_layers_that_see_other_keys_do_not_share():
    """Lengths of another input, or keys of another size."""
    model = attention("float32", length=True)
    first = model.graph[-1]
    other = ir.Value(name="other", shape=ir.Shape(["batch"]), type=ir.TensorType(ir.DataType.INT64))
    model.graph.inputs.append(other)
    second = ir.node("Attention", [*first.inputs[:6], other], {"scale": 0.3}, name="second")
    second.outputs[0].name, second.outputs[0].type = "seen_too", first.outputs[0].type
    model.graph.append(second)
    LengthToMask()(model)
    assert first.inputs[3] is not second.inputs[3]


def test_an_attention_that_sees_every_key_is_not_changed():
    """It needs no mask, and the pass says that it did nothing."""
    model = attention("float32")
    assert not LengthToMask()(model).modified
    assert len(model.graph[-1].inputs) == 3


def test_a_bound_of_scores_is_spelt_out():
    """The parser would drop the attribute."""
    model = attention("float32", softcap=20.0)
    assert LengthToMask()(model).modified
    assert [node.op_type for node in model.graph].count("Tanh") == 1
    assert not any(node.op_type == "Attention" for node in model.graph)


def test_what_the_parser_does_not_read_is_an_error():
    """An attribute that would stop the parser."""
    message = "attention uses qk_matmul_output_mode, which TensorRT"
    with pytest.raises(ExportError, match=message):
        LengthToMask()(attention("float32", qk_matmul_output_mode=1))


def test_a_past_of_its_own_is_an_error():
    """The operator's cache by concatenation."""
    model = attention("float32", "FLOAT")
    node = model.graph[-1]
    node.resize_inputs(6)
    node.replace_input_with(4, node.inputs[1])
    node.replace_input_with(5, node.inputs[2])
    with pytest.raises(ExportError, match="uses past or present"):
        LengthToMask()(model)


def test_merged_heads_are_an_error():
    """The three-dimensional form of the operator."""
    model = attention("float32", length=True)
    model.graph.inputs[0].shape = ir.Shape(["batch", "new", HEADS * HEAD_DIM])
    with pytest.raises(ExportError, match=r"not \(batch, heads, length, head_dim\)"):
        LengthToMask()(model)


def test_a_query_of_no_float_type_is_an_error():
    """Nothing says what type the mask must have."""
    model = attention("float32", length=True)
    model.graph.inputs[0].type = None
    with pytest.raises(ExportError, match="no known float type"):
        LengthToMask()(model)
