"""A decoder computes the logits of a list's tokens alone, and gives all others as impossible."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import check, graph_of, run

from seq2edge.errors import ExportError
from seq2edge.export.passes.lower_to_opset18 import LowerToOpset18
from seq2edge.export.passes.parser_operators import find_parser
from seq2edge.export.passes.shortlist import Shortlist, find_short_logits
from seq2edge.export.passes.top_logits import TopLogits
from seq2edge.quantize.passes.weight_uses import find_weight_uses

VOCAB, WIDTH = 40, 16
IDS = np.array([0, 3, 4, 17, 39])
RNG = np.random.default_rng(0)
TABLE = RNG.standard_normal((VOCAB, WIDTH)).astype(np.float32)
BIAS = RNG.standard_normal(VOCAB).astype(np.float32)
HIDDEN = RNG.standard_normal((3, WIDTH)).astype(np.float32)
HEADS = {
    "tied": ("logits = Gemm <transB = 1> (hidden, W, b)", {"W": TABLE, "b": BIAS}),
    "plain": ("logits = Gemm (hidden, W)", {"W": TABLE.T.copy()}),
    "sum": (
        "scores = MatMul (hidden, W)\n    logits = Add (b, scores)",
        {"W": TABLE.T.copy(), "b": BIAS},
    ),
    "bounded": (
        "x = MatMul (hidden, W)\n  y = Div (x, cap)\n  z = Tanh (y)\n  logits = Mul (z, cap)",
        {"W": TABLE.T.copy(), "cap": np.array(3.0, dtype=np.float32)},
    ),
}


def decoder(head, **weights):
    """A graph with that head and nothing else."""
    shape = f"(float[rows, {WIDTH}] hidden) => (float[rows, {VOCAB}] logits)"
    return graph_of(f"{shape} {{\n    {head}\n}}", **weights)


def short(name):
    """That head with the shortlist."""
    text, weights = HEADS[name]
    model = decoder(text, **weights)
    assert Shortlist(IDS)(model).modified
    check(model)
    return model


@pytest.mark.parametrize("name", HEADS)
def test_listed_logits_stay_and_others_are_impossible(name):
    """In their places; the weight and what is added hold nothing else."""
    text, weights = HEADS[name]
    whole = run(decoder(text, **weights), hidden=HIDDEN)["logits"]
    model = short(name)
    logits = run(model, hidden=HIDDEN)["logits"]
    np.testing.assert_allclose(logits[:, IDS], whole[:, IDS], rtol=1e-5)
    assert np.isneginf(np.delete(logits, IDS, axis=1)).all()
    sizes = [tuple(value.shape) for value in model.graph.initializers.values()]
    assert all(VOCAB not in size for size in sizes)
    found = find_short_logits(model.graph)
    assert found is not None
    assert found.product.op_type == ("MatMul" if name in ("sum", "bounded") else "Gemm")
    np.testing.assert_array_equal(found.ids.const_value.numpy()[:, 0], IDS)


def test_a_tied_embedding_stays_whole():
    """Any token can be read still; two graphs share the part of the head."""
    text = f"""(int64[rows] ids) => (float[rows, {VOCAB}] logits) {{
    hidden = Gather (W, ids)
    logits = Gemm <transB = 1> (hidden, W)
}}"""
    shorten, models = Shortlist(IDS), [graph_of(text, W=TABLE) for _ in range(2)]
    for model in models:
        shorten(model)
    weights = [model.graph.initializers for model in models]
    assert tuple(weights[0]["W"].shape) == (VOCAB, WIDTH)
    assert weights[0]["W.shortlist"].const_value is weights[1]["W.shortlist"].const_value
    ids = np.array([1, 39])
    expected = (TABLE[ids] @ TABLE.T)[:, IDS]
    np.testing.assert_allclose(run(models[0], ids=ids)["logits"][:, IDS], expected, rtol=1e-5)
    kinds = {use.name: use.kind for use in find_weight_uses(models[0].graph, {VOCAB})}
    assert kinds == {"W": "table", "W.shortlist": "table"}


@pytest.mark.parametrize("log_softmax", [False, True])
@pytest.mark.parametrize("k", [1, len(IDS)])
def test_the_largest_are_of_the_list_and_known_by_their_tokens(k, log_softmax):
    """Of equal ones the lowest id is first; the sum is of the list; old parsers read all of it."""
    model = short("tied")
    TopLogits(k, log_softmax=log_softmax)(model)
    check(model)
    if not log_softmax:
        LowerToOpset18(find_parser("10.3"))(model)
    hidden = np.concatenate([HIDDEN, np.zeros((1, WIDTH), np.float32)])
    found = run(model, hidden=hidden)
    logits = found["logits"]
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(found["top_ids"], order)
    np.testing.assert_array_equal(found["top_values"], np.take_along_axis(logits, order, axis=1))
    expected = np.log(np.exp(logits).sum(axis=1))
    np.testing.assert_allclose(found["log_sum_exp"], expected, rtol=1e-5)


def test_the_first_of_equals_is_the_lowest_id():
    """As among all tokens."""
    model = decoder("logits = Gemm (hidden, W)", W=np.ones((WIDTH, VOCAB), np.float32))
    Shortlist(IDS)(model)
    TopLogits(3, log_softmax=True)(model)
    assert run(model, hidden=HIDDEN)["top_ids"].tolist() == [IDS[:3].tolist()] * 3


def test_logits_behind_a_change_of_type_are_found():
    """As in half precision."""
    model = short("tied")
    (logits,) = model.graph.outputs
    node = ir.node("Cast", [logits], {"to": int(ir.DataType.FLOAT)})
    logits.name, node.outputs[0].name = "logits.half", "logits"
    node.outputs[0].shape, node.outputs[0].type = logits.shape, logits.type
    model.graph.append(node)
    model.graph.outputs[0] = node.outputs[0]
    assert find_short_logits(model.graph) is not None


def test_more_than_the_list_has_is_refused():
    """There are no others."""
    with pytest.raises(ExportError, match="no 6 largest of 5 logits"):
        TopLogits(6)(short("tied"))


@pytest.mark.parametrize(
    "head",
    [
        "logits = Neg (W)",
        "scores = Neg (W)\n    logits = MatMul (hidden, scores)",
        "more = MatMul (hidden, W)\n    scores = Neg (more)\n    logits = Add (scores, more)",
        "scores = MatMul (hidden, W)",
    ],
)
def test_a_graph_without_such_a_product_is_refused(head):
    """Nothing is guessed."""
    weights = {"W": TABLE.T.copy()}
    shape = f"(float[{WIDTH}, {WIDTH}] hidden) => (float[{WIDTH}, {VOCAB}] "
    name = "logits" if "logits" in head else "scores"
    model = graph_of(f"{shape} {name}) {{\n    {head}\n}}", **weights)
    with pytest.raises(ExportError, match="no product with a constant weight"):
        Shortlist(IDS)(model)
    assert find_short_logits(model.graph) is None
