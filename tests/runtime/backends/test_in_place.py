"""No decode step copies a cache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "support" / "in_place.py"
CAPACITY, HEAD_DIM, KEY_HEADS, FLOAT = 1 << 16, 128, 2, 4
CACHE = CAPACITY * HEAD_DIM * KEY_HEADS * FLOAT  # 64 MiB, one of the model's four cache tensors
COPY_WARNING = "copying"


@pytest.fixture
def bundle(exported):
    """A Llama whose caches are large beside everything else of a step."""
    return exported("llama", head_dim=HEAD_DIM)[1] / "bundle"


def decode(bundle, target, mode):
    """How far memory grew in the worst step, in bytes, and what ONNX Runtime printed."""
    command = [sys.executable, str(PROGRAM), str(bundle), target, str(CAPACITY), mode]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout), done.stderr


@pytest.mark.parametrize("target", ["onnxruntime", "canonical"])
def test_a_step_allocates_nothing_of_a_caches_size(bundle, target):
    """And ONNX Runtime does not warn that it copies a cache."""
    grown, printed = decode(bundle, target, "shared")
    assert grown // (CACHE // 4) == 0  # not even a quarter of one cache
    assert COPY_WARNING not in printed


def test_the_measurement_sees_a_copy(bundle):
    """With outputs of their own all four tensors are filled afresh in every step."""
    grown, printed = decode(bundle, "canonical", "separate")
    assert grown // CACHE >= 4
    assert COPY_WARNING in printed
