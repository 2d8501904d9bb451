"""Which forms of quantized weights TensorRT-RTX reads as they are, seen in the engines' reports."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from seq2edge.errors import EngineError
from seq2edge.export.tensorrt.engine import Profile, build_engine

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt_rtx is not installed: pip install seq2edge[rtx]",
)

DEPTH, WIDTH = 256, 512  # of a weight: (depth, width)
FLOATS = {
    "Float": TensorProto.FLOAT,
    "Half": TensorProto.FLOAT16,
    "BFloat16": TensorProto.BFLOAT16,
}
PROFILES = [Profile(name="step", sizes={"rows": (1, 4, 8), "new": (1, 1, 1)})]


def tensor(name, values, kind):
    """An initializer of any type."""
    values = np.asarray(values, dtype=np.float32)
    return helper.make_tensor(name, kind, values.shape, values.flatten().tolist())


def dequantized(name, kind, shape, scales, dtype, **attributes):
    """DequantizeLinear of a random weight: its node and initializers; the result is `name`."""
    values = np.random.default_rng(0).integers(-7, 8, shape)
    stored = [tensor(f"{name}.q", values, kind), tensor(f"{name}.s", np.full(scales, 0.01), dtype)]
    inputs = [f"{name}.q", f"{name}.s"]
    return helper.make_node("DequantizeLinear", inputs, [name], name=name, **attributes), stored


def quantized_input(dtype):
    """QuantizeLinear and DequantizeLinear of x, one symmetric scale: the result is `x.d`."""
    stored = [
        tensor("x.s", 0.05, dtype),
        numpy_helper.from_array(np.array(0, dtype=np.int8), "x.z"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x.s", "x.z"], ["x.q"], name="x.q"),
        helper.make_node("DequantizeLinear", ["x.q", "x.s", "x.z"], ["x.d"], name="x.d"),
    ]
    return nodes, stored


def report_of(path, nodes, stored, dtype, width, *, x=None, capability="SM86"):
    """The report of an engine of these nodes, from x (rows, new, DEPTH) to y."""
    x = x or helper.make_tensor_value_info("x", dtype, ["rows", "new", DEPTH])
    y = helper.make_tensor_value_info("y", dtype, ["rows", "new", width])
    graph = helper.make_graph(nodes, "g", [x], [y], stored)
    opsets = [helper.make_opsetid("", 24)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path / "g.onnx")
    return build_engine(path / "g.onnx", PROFILES, capabilities=(capability,)).report


def product_of(path, form, *, dtype="Half", depth=DEPTH, width=WIDTH, block=32, **options):
    """The report of one product with a weight in this form, a bias added."""
    of, nodes, stored, x = FLOATS[dtype], [], [], "x"
    int4, int8 = TensorProto.INT4, TensorProto.INT8
    forms = {
        "int8": (int8, (width,), {"axis": 1}),
        "int8-blocks": (int8, (depth // block, width), {"axis": 0, "block_size": block}),
        "int4": (int4, (-(-depth // block), width), {"axis": 0, "block_size": block}),
        "int4-channels": (int4, (width,), {"axis": 1}),
    }
    if form == "float":
        weight = np.random.default_rng(0).standard_normal((depth, width))
        stored.append(tensor("w", weight, of))
    else:
        kind, scales, attributes = forms["int8" if form == "w8a8" else form]
        node, stored = dequantized("w", kind, (depth, width), scales, of, **attributes)
        nodes.append(node)
    if form == "w8a8":
        quantizing, scales = quantized_input(of)
        nodes, stored, x = [*quantizing, *nodes], [*scales, *stored], "x.d"
    nodes.append(helper.make_node("MatMul", [x, "w"], ["p"], name="product"))
    nodes.append(helper.make_node("Add", ["p", "bias"], ["y"], name="add"))
    stored.append(tensor("bias", np.ones(width), of))
    given = helper.make_tensor_value_info("x", of, ["rows", "new", depth])
    return report_of(path, nodes, stored, of, width, x=given, **options)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("form", "product"),
    [
        ("float", "{0} x {0}"),
        ("w8a8", "Int8 x Int8"),
        ("int8", "{0} x Int8"),
        ("int4", "{0} x Int4"),
    ],
)
def test_these_forms_are_read_as_they_are(tmp_path, form, product, dtype):
    """One product of these types, and no weight written out as floats."""
    report = product_of(tmp_path, form, dtype=dtype)
    assert report.products == {product.format(dtype): 1}
    assert report.dequantized_weights == 0
    counts = [
        report.products[kind] for kind in ("Int8 x Int8", f"{dtype} x Int8", f"{dtype} x Int4")
    ]
    assert counts == [form == "w8a8", form == "int8", form == "int4"]
    assert report.products["Half x Half"] == (form == "float" and dtype == "Half")


@pytest.mark.parametrize(
    ("form", "sizes"),
    [
        ("int8-blocks", {}),
        ("int4-channels", {}),
        ("int4", {"block": DEPTH}),
        ("int4", {"width": WIDTH - 1}),
        ("int8", {"width": WIDTH - 1}),
    ],
)
def test_these_forms_are_written_out_as_floats(tmp_path, form, sizes):
    """Blocks of 8-bit weights, one 4-bit scale for a whole column, an odd width: no gain."""
    report = product_of(tmp_path, form, **sizes)
    assert report.dequantized_weights == 1
    assert not any(kind.endswith(("x Int8", "x Int4")) for kind in report.products)


def test_an_odd_width_is_no_matter_to_integer_products(tmp_path):
    """An odd vocabulary's head can have 8-bit activations."""
    assert product_of(tmp_path, "w8a8", width=WIDTH - 1).products["Int8 x Int8"] == 1


def test_old_gpus_read_no_narrow_weights(tmp_path):
    """SM75 has integer products alone."""
    assert product_of(tmp_path, "w8a8", capability="SM75").products["Int8 x Int8"] == 1
    assert product_of(tmp_path, "int8", capability="SM75").dequantized_weights == 1
    with pytest.raises(EngineError, match="HW-specific datatypes: int4"):
        product_of(tmp_path, "int4", capability="SM75")


def test_a_short_last_block_is_an_error(tmp_path):
    """The parser would take 8 blocks of 30 values for 7 of 32 and one of 16."""
    with pytest.raises(EngineError, match="w has 240 values in blocks of 32; TensorRT would take"):
        product_of(tmp_path, "int4", depth=240)


def test_scales_of_another_type_are_an_error(tmp_path):
    """Float32 scales make a float32 weight, which does not meet a float16 input."""
    node, stored = dequantized(
        "w", TensorProto.INT8, (DEPTH, WIDTH), (WIDTH,), TensorProto.FLOAT, axis=1
    )
    product = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    with pytest.raises(EngineError, match="must have same input types"):
        report_of(tmp_path, [node, product], stored, TensorProto.FLOAT16, WIDTH)


def embedding(path, *, gather_first=False, tied=False):
    """The report of a look-up in an 8-bit table with a scale for each word."""
    words, half = 1000, TensorProto.FLOAT16
    node, stored = dequantized("table", TensorProto.INT8, (words, DEPTH), (words,), half, axis=0)
    nodes = [node, helper.make_node("Gather", ["table", "ids"], ["seen"], name="gather")]
    if gather_first:
        stored[1] = tensor("table.s", 0.01, half)
        nodes = [
            helper.make_node("Gather", ["table.q", "ids"], ["found"], name="gather"),
            helper.make_node("DequantizeLinear", ["found", "table.s"], ["seen"], name="table"),
        ]
    if tied:
        nodes.append(helper.make_node("Transpose", ["table"], ["head"], name="t", perm=[1, 0]))
        nodes.append(helper.make_node("MatMul", ["seen", "head"], ["y"], name="product"))
    else:
        nodes.append(helper.make_node("Identity", ["seen"], ["y"], name="out"))
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["rows", "new"])
    return report_of(path, nodes, stored, half, words if tied else DEPTH, x=ids)


def test_a_quantized_embedding_is_looked_up_in_one_kernel(tmp_path):
    """Dequantized, then gathered: only what is looked up becomes floats."""
    report = embedding(tmp_path)
    gathers = [layer for layer in report.layers if "gather" in layer.nodes]
    assert len(gathers) == 1
    assert "Int8" in {constant.dtype for constant in gathers[0].constants}
    assert report.dequantized_weights == 0


def test_a_tied_table_is_both_embedding_and_head(tmp_path):
    """One DequantizeLinear for the look-up and the product."""
    report = embedding(tmp_path, tied=True)
    assert report.products == {"Half x Int8": 1}
    assert report.dequantized_weights == 0


def test_gathering_before_dequantizing_is_an_error(tmp_path):
    """Low-bit constants may be read by DequantizeLinear alone."""
    with pytest.raises(EngineError, match="only allowed before DQ"):
        embedding(tmp_path, gather_first=True)
