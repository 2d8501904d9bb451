"""Sizes are checked when made, and survive the manifest."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seq2edge.errors import UnsupportedError
from seq2edge.model.dims import ACTIVATIONS, NORMS, POSITIONS, Dims, StackDims

SIZES = {"layers": 2, "heads": 6, "kv_heads": 2, "head_dim": 8, "hidden": 64, "activation": "gelu"}
STACK = StackDims(**SIZES)
STACKS = st.builds(
    StackDims,
    layers=st.integers(1, 9),
    heads=st.just(6),
    kv_heads=st.sampled_from([1, 2, 3, 6]),
    head_dim=st.integers(1, 99),
    hidden=st.integers(1, 99),
    activation=st.sampled_from(ACTIVATIONS),
    norm=st.sampled_from(NORMS),
    positions=st.sampled_from(POSITIONS),
    norm_epsilon=st.floats(1e-12, 1e-3),
    rotary_theta=st.floats(0, 1e7),
    rotary_divisors=st.lists(st.floats(1, 99)).map(tuple),
    unrotated_layers=st.lists(st.integers(0, 8)).map(tuple),
    pre_norm=st.booleans(),
    window=st.integers(0, 99),
)


@given(st.none() | STACKS, STACKS, st.integers(1, 99), st.booleans())
def test_dims_survive_json(encoder, decoder, mels, tied):
    """As the manifest keeps them, every field."""
    dims = Dims(width=8, vocab=9, encoder=encoder, decoder=decoder, mels=mels, tied=tied)
    assert Dims.from_dict(json.loads(json.dumps(dims.to_dict()))) == dims


def test_what_follows_from_the_sizes():
    """Widths, kind of model, frames."""
    assert (STACK.query_width, STACK.key_width) == (48, 16)
    kinds = [
        Dims(width=8, vocab=9, encoder=STACK, decoder=STACK).kind,
        Dims(width=8, vocab=9, decoder=STACK).kind,
        Dims(width=8, vocab=9, encoder=STACK).kind,
    ]
    assert kinds == ["encoder-decoder", "decoder", "encoder"]
    listening = dataclasses.replace(STACK, max_positions=1500)
    assert Dims(width=8, vocab=9, encoder=listening, decoder=STACK, mels=80).frames == 3000
    assert Dims(width=8, vocab=9, encoder=listening, decoder=STACK).frames == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "xielu"}, "activation: 'xielu' is not supported, known: relu, gelu"),
        ({"norm": "batch"}, "norm: 'batch' is not supported"),
        ({"positions": "alibi"}, "positions: 'alibi' is not supported"),
        ({"kv_heads": 4}, "kv_heads: 6 heads cannot share 4"),
        ({"kv_heads": 0}, "kv_heads: 0, a model has 1 to 4096"),
        ({"layers": 10**9}, "layers: 1000000000, a model has 0 to 4096"),
        ({"layers": 10**9, "mixers": ("attention",)}, "layers: 1000000000"),
        ({"windows": (4, 0, 4)}, "windows: 3 of them for 2 layers"),
        ({"rotary_dim": 5}, "rotary_dim: 5 is not an even part of heads of 8"),
        ({"rotary_dim": 10}, "rotary_dim: 10 is not an even part of heads of 8"),
    ],
)
def test_choices_are_from_known_sets(changes, message):
    """Also when they come from a manifest."""
    with pytest.raises(UnsupportedError, match=message):
        StackDims(**{**SIZES, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "ranking"}, "head: 'ranking'"),
        ({"pooling": "sum"}, "pooling: 'sum' is not supported, known: first, last, max, mean"),
        ({"decoder": None}, "neither an encoder nor a decoder"),
        ({"vocab": 10**9}, "vocab: 1000000000, a model has 1 to 16777216"),
        ({"width": 0}, "width: 0, a model has 1 to"),
        (
            {"mels": 80, "encoder": dataclasses.replace(STACK, max_positions=2**20)},
            "features: .* values, at most 67,108,864 in all",
        ),
    ],
)
def test_a_model_has_known_parts(changes, message):
    """And at least one stack."""
    with pytest.raises(UnsupportedError, match=message):
        Dims(**{"width": 8, "vocab": 9, "decoder": STACK, **changes})


def test_unknown_sizes_are_not_passed_over():
    """A manifest of a later version may know more than we do."""
    values = Dims(width=8, vocab=9, decoder=STACK).to_dict()
    with pytest.raises(TypeError, match="experts"):
        Dims.from_dict({**values, "experts": 8})
    with pytest.raises(TypeError, match="experts"):
        Dims.from_dict({**values, "decoder": {**values["decoder"], "experts": 8}})
