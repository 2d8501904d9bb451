"""Requests of every kind that join and leave a running batch, against each of them alone.

`MIXED_LOAD=500` in the environment makes so many requests, not as many as a test asks for.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from requests_of import decode_as_they_come

from seq2edge.runtime.scheduler import decode

KINDS = [
    {},
    {"num_beams": 2},
    {"num_beams": 4, "num_return_sequences": 2},
    {"do_sample": True, "seed": 5, "top_k": 20},
    {"do_sample": True, "seed": 6, "num_return_sequences": 3},
    {"repetition_penalty": 1.4, "min_new_tokens": 3},
    {"no_repeat_ngram_size": 2, "num_beams": 3},
]
GUESSED = [
    {"prompt_lookup_num_tokens": 6},
    {"prompt_lookup_num_tokens": 3, "do_sample": True, "seed": 7},
]
ROWS = 14  # that are decoded at a time


def requests(model, count, seed):
    """Kinds, lengths and limits of every sort; tokens are guessed where that can be verified."""
    rng = np.random.default_rng(seed)
    kinds = [*KINDS, *GUESSED] if model.backend.verifies else KINDS
    made = []
    for _ in range(count):
        changes = kinds[rng.integers(len(kinds))]
        limit = int(rng.integers(max(1, changes.get("min_new_tokens", 1)), 20))
        options = model.options.replace(max_length=None, max_new_tokens=limit, **changes)
        ids = rng.integers(3, 90, rng.integers(1, 25)).tolist()
        made.append(model.request(ids, options))
    return made


def assert_each_as_alone(model, count, seed):
    """That come at different times, a few rows at a time; some are cancelled on the way."""
    count = int(os.environ.get("MIXED_LOAD", count))
    alone = [decode(model.backend, [each])[0] for each in requests(model, count, seed)]
    load = requests(model, count, seed)  # those who guess begin anew
    groups, cancelled = decode_as_they_come(model.backend, load, rows=ROWS)
    pairs = [
        (group.results(), wanted)
        for number, (group, wanted) in enumerate(zip(groups, alone, strict=True))
        if number not in cancelled
    ]
    assert len(pairs) > count / 2
    different = [(f, w) for f, w in pairs if [s.ids for s in f] != [s.ids for s in w]]
    assert not different, f"{len(different)} of {len(pairs)} requests"
    for found, wanted in pairs:
        scores = [s.score for s in wanted]
        assert [s.score for s in found] == pytest.approx(scores, abs=1e-3)
    assert model.backend.verifies == any(
        f[0].usage.accepted_tokens for f, _ in pairs if f[0].usage.guessed_tokens
    )
