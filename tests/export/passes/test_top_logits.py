"""What tokens are chosen from is added to a decoder: the largest logits and the sum of all."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from small_graphs import check, graph_of, run

from seq2edge.bundle.engine_info import top_outputs
from seq2edge.errors import ExportError
from seq2edge.export.passes.lower_to_opset18 import LowerToOpset18
from seq2edge.export.passes.top_logits import TopLogits

VOCAB = 40
TEXT = """(float[rows, 40] hidden) => (float[rows, 40] logits, float[rows, 40] present)
{
    logits = Add (hidden, bias)
    present = Neg (hidden)
}"""
OPEN = TEXT.replace("40]", "many]").replace("Add (hidden, bias)", "Neg (hidden)")
BIAS = np.linspace(-1, 1, VOCAB, dtype=np.float32)


def made(k, text=TEXT, **weights):
    """The small decoder with its k largest logits."""
    model = graph_of(text, **(weights or {"bias": BIAS}))
    assert TopLogits(k)(model).modified
    check(model)
    return model


@pytest.mark.parametrize("lowered", [False, True])
@pytest.mark.parametrize("k", [1, 7, VOCAB])
def test_the_largest_logits_and_the_sum_of_all(k, lowered):
    """Beside what there was; in the operators of old parsers too."""
    model = made(k)
    if lowered:
        LowerToOpset18()(model)
        assert model.opset_imports[""] == 18
    hidden = np.random.default_rng(k).standard_normal((3, VOCAB)).astype(np.float32) * 9
    found = run(model, hidden=hidden)
    assert list(found) == ["logits", "present", "log_sum_exp", "top_values", "top_ids"]
    logits = found["logits"].astype(np.float64)
    np.testing.assert_array_equal(found["top_values"], -np.sort(-found["logits"], axis=1)[:, :k])
    taken = np.take_along_axis(found["logits"], found["top_ids"], axis=1)
    np.testing.assert_array_equal(taken, found["top_values"])
    np.testing.assert_allclose(found["log_sum_exp"], np.log(np.exp(logits).sum(axis=1)), rtol=1e-6)


def test_names_types_and_shapes_are_the_sidecars():
    """One record of them for who builds an engine and who runs it."""
    outputs = made(7).graph.outputs[2:]
    found = [(o.name, o.dtype.name.lower().replace("float", "float32"), o.shape) for o in outputs]
    wanted = [(t.name, t.dtype, ir.Shape(t.shape)) for t in top_outputs(7)]
    assert found == wanted
    assert top_outputs(0) == ()


@pytest.mark.parametrize("size", [3e4, -3e4])
def test_large_logits_do_not_overflow(size):
    """Nor do they vanish; one that is no number, or infinite, makes the sum none."""
    hidden = np.full((4, VOCAB), size, dtype=np.float32)
    hidden[1, 3], hidden[2, 5], hidden[3, 7] = np.nan, np.inf, -np.inf
    found = run(made(2), hidden=hidden)["log_sum_exp"]
    assert found[0] == pytest.approx(size + np.log(VOCAB), rel=1e-4)
    assert np.isfinite(found).tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("text", "k", "message"),
    [
        (TEXT, 0, "no 0 largest of 40"),
        (TEXT, 41, "no 41 largest of 40"),
        (OPEN, 4, "no 4 largest of many"),
        (TEXT.replace("logits", "scores"), 4, "does not compute logits in float32"),
        (TEXT.replace("float[", "float16["), 4, "does not compute logits in float32"),
        ("(float[r, 40] logits) => (float[r, 40] logits) {}", 4, "does not compute logits"),
    ],
)
def test_other_graphs_are_refused(text, k, message):
    """With too few logits, none, of another type, or given from outside."""
    bias = BIAS.astype(np.float16) if "float16" in text else BIAS
    with pytest.raises(ExportError, match=message):
        TopLogits(k)(graph_of(text, bias=bias))
