"""Positions are those of the papers, by an independent formula each."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position
from transformers.models.t5.modeling_t5 import T5Attention

from seq2edge.model.dims import StackDims
from seq2edge.model.positions import RelativeBias, RelativePlaces, Rotary, sinusoidal_table

STACK = StackDims(
    layers=1,
    heads=2,
    kv_heads=2,
    head_dim=8,
    hidden=4,
    activation="relu",
    rotary_theta=10000.0,
    relative_buckets=8,
    relative_distance=16,
)


@pytest.mark.parametrize("width", [6, 7])
def test_sines_come_first_then_cosines(width):
    """Entry by entry; an odd width has one sine more."""
    table = sinusoidal_table(40, width)
    for position in (0, 1, 17, 39):
        for i in range((width + 1) // 2):
            angle = position / 10000 ** (2 * i / width)
            assert table[position, i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            if i < width // 2:
                cosine = table[position, (width + 1) // 2 + i].item()
                assert cosine == pytest.approx(math.cos(angle), abs=1e-6)


def test_rotary_angles_grow_with_the_position():
    """Frequency i is theta to the power -2i / head_dim, also far out."""
    positions = torch.tensor([[0, 1, 2], [5, 100, 30000]])
    cos, sin = Rotary(STACK)(positions)
    assert cos.shape == sin.shape == (2, 3, 4)
    for i in range(4):
        angle = positions.double() * 10000 ** (-2 * i / 8)
        torch.testing.assert_close(cos[..., i].double(), angle.cos(), atol=3e-3, rtol=0)
        torch.testing.assert_close(sin[..., i].double(), angle.sin(), atol=3e-3, rtol=0)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "farthest"), [(8, 16), (32, 128), (32, 20)])
def test_every_distance_has_the_bucket_of_t5(bidirectional, buckets, farthest):
    """Near ones exactly, far ones by logarithm, beyond the farthest all alike."""
    stack = StackDims(
        layers=1,
        heads=3,
        kv_heads=3,
        head_dim=8,
        hidden=4,
        activation="relu",
        relative_buckets=buckets,
        relative_distance=farthest,
    )
    bias = RelativeBias(stack, bidirectional=bidirectional)
    bias.weight.data = torch.arange(buckets)[:, None] * torch.tensor([1.0, 10.0, 100.0])
    query, key = torch.arange(300)[None], torch.arange(300)
    distance = key[None] - query[0][:, None]
    wanted = T5Attention._relative_position_bucket(distance, bidirectional, buckets, farthest)
    seen = torch.ones_like(distance, dtype=torch.bool) if bidirectional else distance <= 0
    found = bias(query, key)[0]
    assert torch.equal(found[0][seen], wanted[seen].float())
    assert torch.equal(found[2], 100 * found[0])


@pytest.mark.parametrize(("span", "farthest"), [(256, 512), (4, 7), (8, 16)])
def test_rows_of_relative_positions_are_those_of_deberta(span, farthest):
    """Every distance, far beyond the last; each place holds its row and its query or key."""
    source = min(2 * farthest + 9, 700)
    stack = dataclasses.replace(STACK, relative_span=span, relative_distance=farthest)
    with_query, with_key = RelativePlaces(stack)(torch.arange(source))
    x = torch.empty(source, 1)
    wanted = build_relative_position(x, x, bucket_size=span, max_position=farthest)[0]
    wanted = (wanted + span).clamp(0, 2 * span - 1)
    torch.testing.assert_close(with_query // source, wanted)
    torch.testing.assert_close(with_key // source, wanted)
    index = torch.arange(source)
    assert (with_query % source == index[:, None]).all()
    assert (with_key % source == index).all()
