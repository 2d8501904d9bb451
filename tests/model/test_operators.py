"""The eager half of each operator: what the ONNX node of that name is specified to do."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from seq2edge.model import operators

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def random(*shape, seed=0):
    """Reproducible normal values."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def specified(operator, *inputs, opset=24, **attributes):
    """What onnx's own reference makes of one node; None is an input left out."""
    names = [f"input{i}" if value is not None else "" for i, value in enumerate(inputs)]
    given = {name: value.numpy() for name, value in zip(names, inputs, strict=True) if name}
    node = helper.make_node(operator, names, ["output"], **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for name, v in given.items()
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [None] * inputs[0].ndim)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    onnx.checker.check_model(model)
    return ReferenceEvaluator(model).run(None, given)[0]


def test_the_cache_is_written_as_tensor_scatter_writes():
    """Each row from its own index on; the rest stays."""
    cache, update = random(3, 2, 7, 4), random(3, 2, 2, 4, seed=1)
    index = torch.tensor([0, 5, 3])
    wanted = specified("TensorScatter", cache, update, index, axis=2, mode="linear")
    kept = cache.clone()
    found = operators.write_cache(cache, update, index)
    assert found.data_ptr() == cache.data_ptr(), "in place"
    np.testing.assert_array_equal(found, wanted)
    assert not torch.equal(found, kept)


@pytest.mark.parametrize("cap", [0.0, 1.5])
def test_what_is_weighed_is_what_attention_weighs(cap):
    """Weights of keys that are valid, with and without bounded scores."""
    query, key = random(2, 4, 3, 8), random(2, 4, 5, 8, seed=1)
    length = torch.tensor([5, 2])
    weights = operators.weigh(query, key, scale=2.0, cap=cap, length=length)
    value = torch.eye(5).expand(2, 4, 5, 5)
    wanted = operators.attend(query, key, value, scale=2.0, cap=cap, length=length)
    torch.testing.assert_close(weights, wanted, **CLOSE)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("kind", ["none", "bool", "additive"])
def test_attention_is_that_of_the_specification(kv_heads, kind):
    """Grouped heads, a scale of the model's own, both kinds of mask."""
    query = random(2, 4, 3, 8)
    key, value = random(2, kv_heads, 5, 8, seed=1), random(2, kv_heads, 5, 8, seed=2)
    mask = {
        "none": None,
        "bool": torch.ones(3, 5, dtype=torch.bool).tril(1)[None, None],
        "additive": random(2, 4, 3, 5, seed=3),
    }[kind]
    found = operators.attend(query, key, value, scale=0.3, mask=mask)
    wanted = specified("Attention", query, key, value, mask, scale=0.3)
    np.testing.assert_allclose(found, wanted, **CLOSE)


@pytest.mark.parametrize("kind", ["none", "bool", "additive"])
def test_keys_beyond_a_rows_length_are_not_seen(kind):
    """Row by row it is as if they were not there."""
    query, key, value = random(2, 2, 3, 4), random(2, 2, 6, 4, seed=1), random(2, 2, 6, 4, seed=2)
    length = torch.tensor([6, 2])
    mask = {
        "none": None,
        "bool": torch.ones(3, 6, dtype=torch.bool).tril(1)[None, None],
        "additive": random(1, 2, 3, 6, seed=3),
    }[kind]
    found = operators.attend(query, key, value, scale=1.0, mask=mask, length=length)
    for row, count in enumerate(length.tolist()):
        alone = operators.attend(
            query[row : row + 1],
            key[row : row + 1, :, :count],
            value[row : row + 1, :, :count],
            scale=1.0,
            mask=None if mask is None else mask[..., :count],
        )
        np.testing.assert_allclose(found[row : row + 1], alone, **CLOSE)


def test_rotation_is_that_of_the_specification():
    """Halves turned together, by given cosines and sines."""
    x, angle = random(2, 3, 4 * 6), random(2, 3, 3, seed=1)
    found = operators.rotate(x, angle.cos(), angle.sin(), 4)
    wanted = specified("RotaryEmbedding", x, angle.cos(), angle.sin(), num_heads=4, interleaved=0)
    np.testing.assert_allclose(found, wanted, **CLOSE)


def test_a_part_of_each_head_is_rotated_as_specified():
    """The first four values of six."""
    x, angle = random(2, 3, 4 * 6), random(2, 3, 2, seed=1)
    found = operators.rotate(x, angle.cos(), angle.sin(), 4)
    attributes = {"num_heads": 4, "interleaved": 0, "rotary_embedding_dim": 4}
    wanted = specified("RotaryEmbedding", x, angle.cos(), angle.sin(), **attributes)
    np.testing.assert_allclose(found, wanted, **CLOSE)


def test_heads_are_split_and_merged():
    """Merging undoes splitting; head h holds its slice of the width."""
    x = random(2, 3, 12)
    heads = operators.split_heads(x, 4)
    assert heads.shape == (2, 4, 3, 3)
    assert torch.equal(heads[:, 1], x[:, :, 3:6])
    assert torch.equal(operators.merge_heads(heads), x)


def test_beams_are_folded_into_their_input():
    """Beams of one input lie side by side along the length; unfolding undoes it."""
    x = random(6, 2, 5)  # 2 inputs, 3 beams each
    folded = operators.fold_beams(x, torch.zeros(2))
    assert folded.shape == (2, 6, 5)
    assert torch.equal(folded[1, 2:4], x[4])
    assert torch.equal(operators.unfold_beams(folded, x), x)
