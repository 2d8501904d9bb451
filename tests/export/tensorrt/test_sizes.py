"""Sizes of engines: read, checked, and cut to what a model has."""

from __future__ import annotations

import dataclasses

import pytest

from seq2edge.errors import OptionError
from seq2edge.export.tensorrt.sizes import BuildSizes, parse_range
from seq2edge.model.dims import Dims, StackDims

STACK = {"layers": 1, "heads": 1, "kv_heads": 1, "head_dim": 4, "hidden": 4, "activation": "relu"}


@pytest.mark.parametrize(
    ("text", "sizes"), [("8", (8, 8, 8)), ("1:8", (1, 1, 8)), ("1:4:8", (1, 4, 8))]
)
def test_ranges_are_read(text, sizes):
    """One number, two or three."""
    assert parse_range(text) == sizes


@pytest.mark.parametrize("text", ["", "a", "1:", "1:2:3:4", "-1", "1-8"])
def test_other_texts_are_refused(text):
    """With what to write."""
    with pytest.raises(OptionError, match="give 8, 1:8 or least:best:most"):
        parse_range(text)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"batch": (2, 1, 8)}, "batch: 2:1:8 is no range"),
        ({"source": (0, 1, 8)}, "source: 0:1:8 is no range"),
        ({"beams": 0}, "beams: 0, give 1 or more"),
        ({"top_k": -1}, "top_k: -1, give 0, or 2 to 3840"),
        ({"top_k": 1}, "top_k: 1, give 0, or 2 to 3840"),
        ({"top_k": 3841}, "top_k: 3841, give 0, or 2 to 3840"),
        ({"prompt": (1, 8, 300)}, "prompt: 300 tokens do not fit a capacity of 256"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, message):
    """Before anything is built."""
    with pytest.raises(OptionError, match=message):
        BuildSizes(**sizes)


def test_sizes_are_cut_to_the_models_positions():
    """And features of sound have one length."""
    short = Dims(
        width=4,
        vocab=9,
        encoder=StackDims(**STACK, positions="learned", max_positions=40),
        decoder=StackDims(**STACK, positions="learned", max_positions=20),
    )
    fitted = BuildSizes().fitted(short)
    assert (fitted.source, fitted.prompt, fitted.capacity) == ((1, 40, 40), (1, 20, 20), 20)
    free = Dims(width=4, vocab=9000, decoder=StackDims(**STACK))
    assert dataclasses.asdict(BuildSizes().fitted(free)) == dataclasses.asdict(BuildSizes(top_k=16))


@pytest.mark.parametrize(
    ("beams", "asked", "top_k"),
    [(1, None, 16), (4, None, 16), (5, None, 20), (2000, None, 3840), (4, 0, 0), (9, 2, 2)],
)
def test_what_is_chosen_from_follows_the_beams(beams, asked, top_k):
    """Unless it was said; never more than TensorRT knows, or than there are tokens."""
    sizes = BuildSizes(beams=beams, top_k=asked)
    large = Dims(width=4, vocab=9000, decoder=StackDims(**STACK))
    assert sizes.fitted(large).top_k == top_k
    assert sizes.fitted(dataclasses.replace(large, vocab=10)).top_k == min(top_k, 10)
    assert sizes.fitted(large, 9).top_k == min(top_k, 9)
    encoder = Dims(width=4, vocab=9000, encoder=StackDims(**STACK))
    assert sizes.fitted(encoder).top_k == 0
