"""Rotary positions are those of transformers' own formulas, frequency by frequency."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from seq2edge.checkpoints.families.family import Config
from seq2edge.checkpoints.families.rotary import read_rotary
from seq2edge.errors import UnsupportedError
from seq2edge.model.dims import StackDims
from seq2edge.model.positions import Rotary

HEAD_DIM, LONGEST = 64, 131072
SCALINGS = {
    "linear": {"factor": 8.0},
    "dynamic": {"factor": 4.0},
    "llama3": {
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 32768},
    "yarn of DeepSeek": {
        "factor": 40,
        "original_max_position_embeddings": 4096,
        "mscale": 1.0,
        "mscale_all_dim": 0.707,
        "beta_fast": 16,
        "beta_slow": 2.0,
        "truncate": False,
    },
    "yarn with its magnitude": {
        "factor": 4.0,
        "original_max_position_embeddings": 32768,
        "attention_factor": 0.8,
    },
    "yarn that stretches nothing": {"factor": 1.0, "mscale": 0.7},
    "yarn of one magnitude": {"factor": 8.0, "mscale": 0.7, "beta_fast": 4, "beta_slow": 0.5},
    "yarn without a magnitude": {"factor": 8.0, "mscale": 1.0, "mscale_all_dim": 0.0},
    "yarn of two, and its own": {
        "factor": 8.0,
        "mscale": 0.5,
        "mscale_all_dim": 1.0,
        "attention_factor": 1.4,
        "original_max_position_embeddings": 16,
    },
    "longrope": {
        "short_factor": [1 + i / 40 for i in range(HEAD_DIM // 2)],
        "long_factor": [1.0 + i for i in range(HEAD_DIM // 2)],
        "original_max_position_embeddings": 4096,
    },
    "longrope of a part": {
        "short_factor": [1 + i / 40 for i in range(24)],
        "long_factor": [1.0 + i for i in range(24)],
        "factor": 16.0,
        "original_max_position_embeddings": 4096,
        "partial_rotary_factor": 0.75,
    },
}


@pytest.mark.parametrize("name", ["longrope", "longrope of a part"])
def test_frequencies_of_long_texts_are_those_of_transformers(name):
    """Where they are asked for; other kinds have none, and say so."""
    parameters = {**SCALINGS[name], "rope_type": "longrope", "rope_theta": 10000.0}
    reference = LlamaConfig(
        hidden_size=4 * HEAD_DIM,
        num_attention_heads=4,
        max_position_embeddings=LONGEST,
        rope_parameters=dict(parameters),
    )
    frequency, magnitude = ROPE_INIT_FUNCTIONS["longrope"](reference, "cpu", seq_len=4097)
    values = {"max_position_embeddings": LONGEST, "rope_parameters": parameters}
    fields = read_rotary(Config(values, long_context=True), head_dim=HEAD_DIM, part=1.0)
    stack = StackDims(
        layers=1, heads=4, kv_heads=4, head_dim=HEAD_DIM, hidden=4, activation="silu", **fields
    )
    torch.testing.assert_close(Rotary(stack).frequency, frequency, rtol=2e-6, atol=0)
    assert (stack.rotary_magnitude, stack.max_positions) == (pytest.approx(magnitude), LONGEST)
    with pytest.raises(UnsupportedError, match=r"long_context: .* no positions of their own"):
        read_rotary(Config({}, long_context=True), head_dim=HEAD_DIM)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"rope_parameters": {"rope_theta": 5.0}, "rope_scaling": {"rope_theta": 6.0}},
            "rope_scaling .* differs from rope_parameters .*: remove one",
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "yarn", "truncate": False}}},
            "rope truncate False of some layers",
        ),
        (
            {"rope_parameters": {"partial_rotary_factor": 0.5}},
            "partial_rotary_factor 0.5 is not supported, heads of this family are rotated whole",
        ),
    ],
)
def test_settings_of_which_transformers_reads_a_part_are_refused(values, message):
    """It passes them over; whoever wrote them meant something."""
    with pytest.raises(UnsupportedError, match=message):
        read_rotary(Config(values), head_dim=HEAD_DIM)


@pytest.mark.parametrize("form", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("name", SCALINGS)
def test_frequencies_are_those_of_transformers(name, form):
    """And the magnitude, in the form of a config before and since transformers 5."""
    kind, theta = name.split()[0], 500000.0
    parameters = {**SCALINGS[name], "rope_type": kind, "rope_theta": theta}
    reference = LlamaConfig(
        hidden_size=4 * HEAD_DIM,
        num_attention_heads=4,
        max_position_embeddings=LONGEST,
        rope_parameters=dict(parameters),
    )
    frequency, magnitude = ROPE_INIT_FUNCTIONS[kind](reference, "cpu")
    values = {"max_position_embeddings": LONGEST, "rope_parameters": parameters}
    if form == "rope_scaling":
        scaling = {**SCALINGS[name], "type": kind}
        part = scaling.pop("partial_rotary_factor", None)
        values = {"max_position_embeddings": LONGEST, "rope_scaling": scaling}
        values |= {"rope_theta": theta, "partial_rotary_factor": part}
    config = Config(values)
    stack = StackDims(
        layers=1,
        heads=4,
        kv_heads=4,
        head_dim=HEAD_DIM,
        hidden=4,
        activation="silu",
        **read_rotary(config, head_dim=HEAD_DIM, part=1.0),
    )
    config.check_all_read()
    torch.testing.assert_close(Rotary(stack).frequency, frequency, rtol=2e-6, atol=0)
    assert stack.rotary_magnitude == pytest.approx(magnitude)
    cos, sin = Rotary(stack)(torch.tensor([[0, 3]]))
    torch.testing.assert_close(cos[0, 1], magnitude * (3 * frequency).cos())
    torch.testing.assert_close(sin[0, 1], magnitude * (3 * frequency).sin())
    assert stack.max_positions == (4096 if kind == "longrope" else LONGEST)
