"""Recipes, and options that a recipe would not heed."""

from __future__ import annotations

from typing import get_args

import pytest

from seq2edge.bundle.manifest import Precision
from seq2edge.errors import OptionError
from seq2edge.quantize.recipes import RECIPES, Options, find_recipe, find_target


def test_every_recipe_is_a_precision_of_the_manifest():
    """And the other way round, but for float32."""
    assert {*RECIPES, "float32"} == set(get_args(Precision))


@pytest.mark.parametrize(
    ("recipe", "target", "options", "message"),
    [
        ("int8-weight", "onnxruntime", {"smoothing": 0.5}, "smoothing: int8-weight has no 8-bit"),
        ("int8-dynamic", "onnxruntime", {"ranges": "entropy"}, "ranges: int8-dynamic has no"),
        ("fp16", "tensorrt", {"int8_cache": True}, "int8 cache: tensorrt keeps it in floats"),
        ("fp16", "tensorrt", {"int8_memory": True}, "int8 memory: tensorrt keeps it in floats"),
    ],
)
def test_options_that_nothing_would_heed_are_refused(recipe, target, options, message):
    """By name, with what would."""
    with pytest.raises(OptionError, match=message):
        Options(**options).check(RECIPES[recipe], target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranges": "median"}, "ranges: 'median' is unknown, known: min-max, percentile, entropy"),
        ({"smoothing": 1.0}, r"smoothing: 1\.0, give 0 \(none\) or more, below 1"),
        ({"smoothing": -0.1}, "smoothing: -0.1"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    """Before anything is read."""
    with pytest.raises(OptionError, match=message):
        Options(**options)


def test_targets_are_found_by_name():
    """The recipe's first by default; a pair that cannot be is refused with those that can."""
    assert find_target(find_recipe("int8-static"), None) == "onnxruntime"
    assert find_target(find_recipe("fp16"), None) == "tensorrt"
    with pytest.raises(OptionError, match="fp16 is not made for 'onnxruntime', only for tensorrt"):
        find_target(find_recipe("fp16"), "onnxruntime")


def test_examples_are_needed_where_ranges_are_fixed():
    """And where float16 may overflow."""
    needs = {(r.name, t) for r in RECIPES.values() for t in r.targets if r.needs_examples(t)}
    assert needs == {
        ("int8-static", "onnxruntime"),
        ("int8-static", "tensorrt"),
        ("int8-weight", "tensorrt"),
        ("int4-weight", "tensorrt"),
        ("fp16", "tensorrt"),
    }
