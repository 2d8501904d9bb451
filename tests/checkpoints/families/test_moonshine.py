"""Moonshine's checkpoints: their sizes, and what no model of that name here can have."""

from __future__ import annotations

import numpy as np
import pytest
from published_configs import CONFIGS

from seq2edge.checkpoints.families.family import Config
from seq2edge.checkpoints.families.moonshine import MOONSHINE
from seq2edge.errors import UnsupportedError
from seq2edge.model.dims import Dims


def read(**changes) -> Dims:
    """Dims of the published config of moonshine-tiny with some settings changed."""
    return MOONSHINE.dims(Config({**CONFIGS["moonshine-tiny"], **changes}), frozenset())


def test_positions_are_those_of_the_convolutions():
    """A position hears 895 samples, and they begin 384 apart; clips have 64 s and a little."""
    dims = read()
    assert dims.decoder.max_positions == 194
    assert dims.samples.length(1) == 895
    counts = dims.positions_of(np.array([894, 895, 1278, 1279, 16_000, 1_024_000]))
    assert counts.tolist() == [0, 1, 1, 2, 40, 2665]
    assert dims.positions_of(dims.longest_clip) == dims.encoder.max_positions == 2665
    assert dims.positions_of(dims.longest_clip + 1) == 2666
    assert Dims.from_dict(dims.to_dict()) == dims


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_num_key_value_heads": 4}, "decoder_num_key_value_heads 4 for 8 heads"),
        ({"encoder_num_attention_heads": 4}, "encoder_num_attention_heads 4 and decoder_num_a"),
        ({"hidden_size": 280, "partial_rotary_factor": 1.0}, "rotary_dim: 36 is not an even part"),
        ({"rope_scaling": {"rope_type": "spiral"}}, "rope scaling spiral is not supported"),
    ],
)
def test_what_transformers_cannot_run_either_is_refused(changes, message):
    """And a head that has no half."""
    with pytest.raises(UnsupportedError, match=message):
        read(**{"encoder_num_key_value_heads": None, **changes})
