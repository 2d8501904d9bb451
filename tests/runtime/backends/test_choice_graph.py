"""The graph that chooses, written without `onnx`: whether it is ONNX, and right."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from seq2edge.runtime.backends.choice_graph import choice_graph
from seq2edge.runtime.likelihood import log_sum_exp


@pytest.mark.parametrize(("vocab", "k", "rows"), [(5, 5, 1), (131, 32, 3), (58_101, 32, 2)])
def test_it_finds_the_largest_logits_and_the_sum_of_all(vocab, k, rows):
    """For vocabularies of any size, also where k is all of them and logits are large."""
    model = choice_graph(vocab, k)
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits = np.random.default_rng(0).normal(0, 30, (rows, vocab)).astype(np.float32)
    names = ["top_values", "top_ids", "log_sum_exp"]
    values, ids, total = session.run(names, {"logits": logits})
    np.testing.assert_array_equal(values, np.sort(logits, axis=1)[:, ::-1][:, :k])
    np.testing.assert_array_equal(np.take_along_axis(logits, ids, axis=1), values)
    np.testing.assert_allclose(total, log_sum_exp(logits), rtol=1e-6)
    assert total.shape == (rows,)


def test_a_logit_that_is_no_number_shows_in_the_sum():
    """As `Candidates` promises."""
    session = onnxruntime.InferenceSession(choice_graph(9, 2), providers=["CPUExecutionProvider"])
    logits = np.zeros((2, 9), dtype=np.float32)
    logits[1, 4] = np.nan
    (total,) = session.run(["log_sum_exp"], {"logits": logits})
    np.testing.assert_array_equal(np.isfinite(total), [True, False])
