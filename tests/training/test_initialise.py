"""Weights before the first step."""

from __future__ import annotations

import math

import torch

from seq2edge.model.dims import Dims, StackDims
from seq2edge.training.initialise import new_model

STACK = StackDims(
    layers=1, heads=4, kv_heads=2, head_dim=8, hidden=64, activation="gelu",
    positions="sinusoidal", max_positions=16,
)  # fmt: skip
DIMS = Dims(width=32, vocab=50, encoder=STACK, decoder=STACK)


def test_weights_depend_on_the_seed_alone() -> None:
    """Not on torch's own random numbers."""
    torch.manual_seed(1)
    one = new_model(DIMS, 0).state_dict()
    torch.manual_seed(2)
    same, other = new_model(DIMS, 0).state_dict(), new_model(DIMS, 1).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["embedding.weight"], other["embedding.weight"])


def test_sinusoidal_tables_do_not_learn_and_all_else_does() -> None:
    """They are the formula's, also after a resume."""
    fixed = {n for n, p in new_model(DIMS, 0).named_parameters() if not p.requires_grad}
    assert fixed == {"encoder.positions.weight", "decoder.positions.weight"}


def test_merged_queries_keys_and_values_are_bounded_each_on_its_own() -> None:
    """Glorot's bound of (32, 32) queries is narrower than that of (16, 32) keys."""
    weight = new_model(DIMS, 0).get_parameter("encoder.layers.0.attention.qkv.weight")
    for part, outputs in zip(torch.split(weight, [32, 16, 16]), (32, 16, 16), strict=True):
        bound = math.sqrt(6 / (32 + outputs))
        assert 0.95 * bound < part.abs().max().item() <= bound
