"""Sizes of engines: read, checked, and cut to what a model has."""

from __future__ import annotations

import pytest

from seq2edge.errors import OptionError
from seq2edge.export.build_sizes import BuildSizes, parse_range
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
    assert BuildSizes().fitted(Dims(width=4, vocab=9, decoder=StackDims(**STACK))) == BuildSizes()
