"""The reference backend keeps the seam's promises."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
from requests_of import decode_prompts

from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.errors import CapacityError
from seq2edge.export.eager import GROWTH, EagerBackend
from seq2edge.runtime.options import DecodeOptions

ENDLESS = DecodeOptions(pad_token_id=1)


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    """A Llama with room for many positions."""
    folder = tmp_path_factory.mktemp("llama")
    tiny_models.save("llama", folder, max_position_embeddings=512)
    return EagerBackend(load_checkpoint(folder).model)


def test_a_cache_that_grows_gives_what_a_large_one_gives(backend):
    """Beyond its first size, in steps."""
    prompts = [[5, 6, 7], [8]]
    new = GROWTH + 20
    grown = decode_prompts(backend, prompts, ENDLESS, max_new_tokens=new)
    fixed = decode_prompts(backend, prompts, ENDLESS.replace(capacity=200), max_new_tokens=new)
    assert [found[0].ids for found in grown] == [found[0].ids for found in fixed]
    assert len(grown[0][0].ids) == new


def test_a_capacity_that_was_set_is_kept(backend):
    """It neither grows nor overwrites."""
    cache = backend.start(None, 1, 4)
    backend.step(np.array([[5, 6, 7, 8]]), np.array([4]), cache)
    with pytest.raises(CapacityError, match="5 tokens do not fit 4"):
        backend.step(np.array([[9]]), np.array([1]), cache)
    assert cache.length.tolist() == [4]


def test_reordered_rows_go_on_as_their_parents(backend):
    """From fewer rows to more, and with one left out."""
    tokens = np.array([[5, 6], [7, 8]])
    cache = backend.start(None, 2, None)
    backend.step(tokens, np.array([2, 1]), cache)
    cache.reorder(np.array([1, 1, 0]))
    assert cache.length.tolist() == [1, 1, 2]
    logits = backend.step(np.array([[9], [9], [9]]), np.array([1, 1, 1]), cache)
    for row, history in ((0, [7, 9]), (2, [5, 6, 9])):
        alone = backend.start(None, 1, None)
        wanted = backend.step(np.array([history]), np.array([len(history)]), alone)
        np.testing.assert_allclose(logits[row], wanted[0], atol=2e-5)
    np.testing.assert_array_equal(logits[0], logits[1])
